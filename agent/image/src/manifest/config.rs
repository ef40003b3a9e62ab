//! Image configurations (OCI image-spec, config.md).

use holdfast_model::ImageConfig;
use serde::Deserialize;

use super::platform::architecture;
use crate::Error;
use crate::digest::Digest;
use crate::error::brief;

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
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
}

impl Config {
    /// Reads a configuration for an image of `layers` layers, if their number is known.
    pub(crate) fn parse(object: &str, body: &[u8], layers: Option<usize>) -> Result<Self, Error> {
        let raw: RawConfig = serde_json::from_slice(body)
            .map_err(|error| Error::unreadable(object, "not an image configuration", &error))?;
        if !raw.rootfs.kind.is_empty() && raw.rootfs.kind != "layers" {
            return Err(Error::unsupported(object, format!("rootfs of type {:?}", brief(&raw.rootfs.kind))));
        }
        let os_fits = raw.os.is_empty() || raw.os == "linux";
        let architecture_fits = raw.architecture.is_empty() || raw.architecture == architecture();
        if !os_fits || !architecture_fits {
            let reason = format!(
                "the image is for {}/{}, this machine is linux/{}",
                brief(&raw.os),
                brief(&raw.architecture),
                architecture()
            );
            return Err(Error::unsupported(object, reason));
        }
        let diff_ids: Result<Vec<Digest>, String> =
            raw.rootfs.diff_ids.unwrap_or_default().iter().map(|diff_id| diff_id.parse()).collect();
        let diff_ids = diff_ids.map_err(|reason| Error::corrupt(object, format!("diff_ids: {reason}")))?;
        if let Some(layers) = layers
            && diff_ids.len() != layers
        {
            let reason = format!("{} diff_ids for {layers} layers", diff_ids.len());
            return Err(Error::corrupt(object, reason));
        }
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
        Ok(Self { image, diff_ids })
    }
}
