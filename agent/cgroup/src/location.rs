//! Where the group of a pod or container lies: decided before anything is made, and kept in its record.

use std::{fmt, str::FromStr};

use cgroups_rs::systemd::{SCOPE_SUFFIX, SLICE_SUFFIX, utils::expand_slice};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Prefix of the scopes of containers; cAdvisor takes the id from `<prefix>-<id>.scope`.
pub const SCOPE_PREFIX: &str = "cri-holdfast";
const MAX_PATH: usize = 2048;
const MAX_NAME: usize = 255;
const FIELD: &str = "cgroup_parent";

/// Who makes the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// We do, as directories.
    Cgroupfs,
    /// systemd does, as slices and scopes.
    Systemd,
}

/// The `cgroup_driver` of the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverSetting {
    /// systemd where systemd runs on cgroup v2, else cgroupfs.
    #[default]
    Auto,
    /// Always systemd.
    Systemd,
    /// Always cgroupfs.
    Cgroupfs,
}

impl FromStr for DriverSetting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "systemd" => Ok(Self::Systemd),
            "cgroupfs" => Ok(Self::Cgroupfs),
            _ => Err(Error::invalid("cgroup_driver", text, "is none of auto, systemd, cgroupfs")),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        })
    }
}

/// A group's place. Displays as the OCI spec's `cgroupsPath`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Location {
    path: String,
    unit: Option<Unit>,
    pod: bool,
}

/// What systemd calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// `cri-holdfast-<id>.scope`, or the pod's slice.
    pub name: String,
    /// The slice above.
    pub slice: String,
}

/// A location as records keep it.
#[derive(Serialize, Deserialize)]
struct Record {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
    #[serde(default)]
    pod: bool,
}

impl From<Location> for Record {
    fn from(location: Location) -> Self {
        Self { path: location.path, unit: location.unit, pod: location.pod }
    }
}

impl TryFrom<Record> for Location {
    type Error = Error;

    /// What is removed and killed later is named by this: a damaged record may not name the root.
    fn try_from(record: Record) -> Result<Self, Error> {
        let path = clean_path(&record.path)?;
        if path == "/" && !record.pod {
            return Err(Error::invalid("cgroup path", &record.path, "is the root, which is nobody's"));
        }
        for name in record.unit.iter().flat_map(|unit| [&unit.name, &unit.slice]) {
            check_unit_name(name)?;
        }
        Ok(Self { path, unit: record.unit, pod: record.pod })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(unit) if !self.pod => {
                let id = unit.name.strip_prefix(SCOPE_PREFIX).unwrap_or(&unit.name).trim_start_matches('-');
                write!(f, "{}:{SCOPE_PREFIX}:{}", unit.slice, id.trim_end_matches(SCOPE_SUFFIX))
            }
            Some(unit) => f.write_str(&unit.name),
            None => f.write_str(&self.path),
        }
    }
}

impl Location {
    /// The group's path in every hierarchy, with a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which driver it belongs to.
    pub fn driver(&self) -> Driver {
        if self.unit.is_some() { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// A pod's group, not a container's.
    pub fn is_pod(&self) -> bool {
        self.pod
    }

    /// What [`crate::Cgroups::container`] takes as the parent, for a pod's group.
    pub fn as_parent(&self) -> &str {
        self.unit.as_ref().map_or(&self.path, |unit| &unit.name)
    }

    /// A group that was found by its path.
    pub(crate) fn group(path: &str) -> Result<Self, Error> {
        Self::try_from(Record { path: path.to_owned(), unit: None, pod: false })
    }

    pub(crate) fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }
}

/// Where the pod's group is: the parent itself, or one of its own below the default parent.
pub(crate) fn pod(driver: Driver, parent: &str, default: &str, id: &str) -> Result<Location, Error> {
    let own = parent.is_empty();
    match driver {
        Driver::Cgroupfs if own => Ok(Location { path: join(default, id), unit: None, pod: true }),
        Driver::Cgroupfs => Ok(Location { path: cgroupfs_parent(parent)?, unit: None, pod: true }),
        Driver::Systemd => {
            let name = if own {
                match default.trim_end_matches(SLICE_SUFFIX) {
                    "-" => format!("pod{id}{SLICE_SUFFIX}"),
                    prefix => format!("{prefix}-pod{id}{SLICE_SUFFIX}"),
                }
            } else {
                slice_parent(parent)?
            };
            let unit = Unit { slice: slice_above(&name), name };
            Ok(Location { path: slice_path(&unit.name)?, unit: Some(unit), pod: true })
        }
    }
}

/// Where a container's group is: directly below the parent.
pub(crate) fn container(driver: Driver, parent: &str, default: &str, id: &str) -> Result<Location, Error> {
    let parent = if parent.is_empty() { default } else { parent };
    match driver {
        Driver::Cgroupfs => {
            Ok(Location { path: join(&cgroupfs_parent(parent)?, id), unit: None, pod: false })
        }
        Driver::Systemd => {
            let slice = slice_parent(parent)?;
            let name = format!("{SCOPE_PREFIX}-{id}{SCOPE_SUFFIX}");
            let path = join(&slice_path(&slice)?, &name);
            Ok(Location { path, unit: Some(Unit { name, slice }), pod: false })
        }
    }
}

/// Checks a `default_cgroup_parent`.
pub(crate) fn check_parent(driver: Driver, parent: &str) -> Result<String, Error> {
    match driver {
        Driver::Cgroupfs => cgroupfs_parent(parent),
        Driver::Systemd => slice_parent(parent),
    }
}

/// A path of ours, checked and with a leading slash.
fn cgroupfs_parent(parent: &str) -> Result<String, Error> {
    if parent.trim_end_matches('/').ends_with(SLICE_SUFFIX) {
        let problem = "is a systemd slice, but the cgroup driver here is cgroupfs: give a path such as /pods, or set \
                       cgroup_driver to systemd here and in the kubelet";
        return Err(Error::invalid(FIELD, parent, problem));
    }
    clean_path(parent)
}

/// The slice's name from `a-b.slice` or `/a.slice/a-b.slice`.
fn slice_parent(parent: &str) -> Result<String, Error> {
    let name = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if !name.ends_with(SLICE_SUFFIX) {
        let problem = "is a cgroupfs path, but the cgroup driver here is systemd: give a slice such as pods.slice, or \
                       set cgroup_driver to cgroupfs here and in the kubelet";
        return Err(Error::invalid(FIELD, parent, problem));
    }
    check_unit_name(name)?;
    let path = slice_path(name)?;
    if parent.contains('/') && clean_path(parent)? != path {
        return Err(Error::invalid(
            FIELD,
            parent,
            format!("is not where systemd puts {name}, which is {path}"),
        ));
    }
    Ok(name.to_owned())
}

fn slice_path(name: &str) -> Result<String, Error> {
    let path =
        expand_slice(name).map_err(|_| Error::invalid(FIELD, name, "is not the name of a systemd slice"))?;
    if path.len() > MAX_PATH {
        return Err(Error::invalid(FIELD, name, "is too long"));
    }
    Ok(format!("/{path}"))
}

/// `a-b-c.slice` lies in `a-b.slice`; `a.slice` in the root slice.
fn slice_above(name: &str) -> String {
    let above = name.trim_end_matches(SLICE_SUFFIX).rsplit_once('-').map_or("", |(above, _)| above);
    format!("{}{SLICE_SUFFIX}", if above.is_empty() { "-" } else { above })
}

/// systemd.unit(5): "must consist of one or more valid characters (ASCII letters, digits, ":", "-", "_", ".", "\")".
fn check_unit_name(name: &str) -> Result<(), Error> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(valid) {
        return Err(Error::invalid(FIELD, name, "is not the name of a systemd unit"));
    }
    Ok(())
}

fn clean_path(path: &str) -> Result<String, Error> {
    if path.len() > MAX_PATH {
        return Err(Error::invalid(
            FIELD,
            format!("{}...", path.chars().take(64).collect::<String>()),
            "is too long",
        ));
    }
    let mut clean = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let problem = match name {
            "." | ".." => "may not contain . or ..",
            _ if name.len() > MAX_NAME => "has a name of more than 255 bytes",
            _ if name.chars().any(char::is_control) => "contains a control character",
            _ => {
                clean.push('/');
                clean.push_str(name);
                continue;
            }
        };
        return Err(Error::invalid(FIELD, path, problem));
    }
    Ok(if clean.is_empty() { "/".to_owned() } else { clean })
}

fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "location_tests.rs"]
mod tests;
