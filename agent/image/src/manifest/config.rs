//! Image configurations (OCI image-spec, config.md).

use holdfast_model::ImageConfig;
use serde::Deserialize;

use super::platform::{Platform, architecture};
use crate::Error;
use crate::digest::Digest;
use crate::error::brief;

#[derive(Deserialize)]
struct RawConfig {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: RawRootfs,
    #[serde(default)]
    config: Option<RawProcess>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawProcess {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

/// A configuration: what containers get from it, and the layers by what they unpack to.
#[derive(Debug)]
pub(crate) struct Config {
    pub image: ImageConfig,
    pub diff_ids: Vec<Digest>,
    platform: Platform,
}

impl Config {
    pub(crate) fn parse(object: &str, body: &[u8]) -> Result<Self, Error> {
        let raw: RawConfig = serde_json::from_slice(body)
            .map_err(|error| Error::unreadable(object, "not an image configuration", &error))?;
        if !raw.rootfs.kind.is_empty() && raw.rootfs.kind != "layers" {
            return Err(Error::unsupported(object, format!("rootfs of type {:?}", brief(&raw.rootfs.kind))));
        }
        let diff_ids: Result<Vec<Digest>, String> =
            raw.rootfs.diff_ids.unwrap_or_default().iter().map(|diff_id| diff_id.parse()).collect();
        let diff_ids = diff_ids.map_err(|reason| Error::corrupt(object, format!("diff_ids: {reason}")))?;
        let process = raw.config.unwrap_or_default();
        let image = ImageConfig {
            user: process.user.unwrap_or_default(),
            env: process.env.unwrap_or_default(),
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            working_dir: process.working_dir.unwrap_or_default(),
            stop_signal: process.stop_signal.unwrap_or_default(),
            volumes: process.volumes.unwrap_or_default().into_keys().collect(),
        };
        Ok(Self { image, diff_ids, platform: Platform::new(raw.os, raw.architecture, raw.variant) })
    }

    /// An error unless it describes an image of so many layers.
    pub(crate) fn check_layers(&self, object: &str, layers: usize) -> Result<(), Error> {
        if self.diff_ids.len() == layers {
            return Ok(());
        }
        Err(Error::corrupt(object, format!("{} diff_ids for {layers} layers", self.diff_ids.len())))
    }

    /// An error if it says that the image is for other machines. Not asked where an index has named the platform:
    /// builders that cross-compile often leave their own machine's name in the configuration.
    pub(crate) fn check_platform(&self, object: &str) -> Result<(), Error> {
        if self.platform.may_run() {
            return Ok(());
        }
        let (found, here) = (self.platform.show(), architecture());
        Err(Error::unsupported(object, format!("the image is for {found}, this machine is linux/{here}")))
    }
}
