//! A spec file as types.

use std::path::Path;

use holdfast_model::{ContainerEdits, Map, or_nothing};
use serde::{Deserialize, de::DeserializeOwned};

use super::{check, yaml};

/// A spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// The version of the interface that it follows.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub annotations: Option<Map>,
    /// The devices.
    pub devices: Vec<Device>,
    /// What any of the devices changes.
    #[serde(default, deserialize_with = "or_nothing")]
    pub container_edits: ContainerEdits,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub annotations: Option<Map>,
    /// What it changes.
    #[serde(default, deserialize_with = "or_nothing")]
    pub container_edits: ContainerEdits,
}

/// What a file claims to define, whatever else is wrong in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// `vendor.com/class`.
    pub kind: String,
    /// The devices.
    pub devices: Vec<ClaimedDevice>,
}

/// A device that a file claims to define.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClaimedDevice {
    /// Its name.
    pub name: String,
}

/// Reads and checks the text of a file. JSON where the name says so, else YAML.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Spec, String> {
    let spec = read(path, bytes)?;
    check::spec(&spec)?;
    Ok(spec)
}

/// What a file that [`parse`] refuses claims to define; nothing if that cannot be read either.
pub fn claim(path: &Path, bytes: &[u8]) -> Option<Claim> {
    read(path, bytes).ok()
}

fn read<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, String> {
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_slice(bytes).map_err(|error| error.to_string());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    yaml::from_str(text)
}
