//! Manifests, indexes and configurations: what of them is believed, and what is refused.
//!
//! A document is what its own media type and its shape say, whatever type a registry or cache gives it on the way; one
//! that is two things at once is refused, before anything is downloaded.

mod config;
mod media;
mod platform;
mod search;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;

pub(crate) use self::config::Config;
pub(crate) use self::media::ACCEPT;
use self::media::{is_config, is_index, is_layer, is_manifest};
use self::platform::Platform;
pub(crate) use self::search::{Found, Search, Step};
use crate::Error;
use crate::digest::Digest;
use crate::error::brief;

/// Largest manifest or index, in bytes.
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;
/// Largest configuration, in bytes.
pub(crate) const LARGEST_CONFIG: u64 = 8 << 20;
/// Most layers of an image: overlayfs takes 500, and one of them may be ours.
pub(crate) const MOST_LAYERS: usize = 499;
/// Largest layer blob that a descriptor may announce, in bytes.
const LARGEST_LAYER: u64 = 256 << 30;

/// Set by BuildKit on what is attached to an image of the same index: attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub digest: Digest,
    pub size: u64,
}

/// A manifest, as far as we use it.
#[derive(Debug)]
pub(crate) enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// Images of several platforms, and what is attached to them.
    Index(Index),
}

/// The manifest of one image.
#[derive(Debug)]
pub(crate) struct ImageManifest {
    pub config: Descriptor,
    /// The media type of the configuration where it is none that we know: old registries forgot it, so its content
    /// decides.
    odd_config: Option<String>,
    pub layers: Vec<Descriptor>,
}

/// The entries of an index that may be images.
#[derive(Debug)]
pub(crate) struct Index {
    entries: Vec<RawDescriptor>,
}

/// An entry of an index, or of the index of an OCI layout.
#[derive(Debug)]
pub(crate) struct Listed {
    pub descriptor: Descriptor,
    /// Whether the index says that it is for this machine; nothing: it does not say for which.
    pub fits: Option<bool>,
    pub annotations: BTreeMap<String, String>,
}

/// A document that is one thing: an image's manifest or an index, not both, and no other.
#[derive(Debug)]
pub(crate) struct Document(RawManifest);

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde_json::Value>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: i64,
    platform: Option<Platform>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl RawDescriptor {
    fn kind(&self) -> Option<&str> {
        self.media_type.as_deref().filter(|kind| !kind.is_empty())
    }

    /// Whether an entry of an index may lead to an image, and not to an attestation, a signature or another artifact.
    fn may_be_image(&self) -> bool {
        let attached = self.annotations.as_ref().is_some_and(|all| all.contains_key(REFERENCE_TYPE));
        let artifact = self.artifact_type.as_deref().is_some_and(|kind| !kind.is_empty() && !is_config(kind));
        let known = self.kind().is_none_or(|kind| is_manifest(kind) || is_index(kind));
        known && !attached && !artifact
    }

    fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref().filter(|platform| !platform.is_empty())
    }
}

/// The manifests and indexes that a layout's `index.json` lists.
pub(crate) fn list(object: &str, body: &[u8]) -> Result<Vec<Listed>, Error> {
    let raw: RawManifest =
        serde_json::from_slice(body).map_err(|error| Error::unreadable(object, "not an index", &error))?;
    let manifests = raw.manifests.ok_or_else(|| Error::corrupt(object, "the index lists no manifests"))?;
    let listed = |raw: RawDescriptor| {
        Ok(Listed {
            descriptor: descriptor(object, &raw, LARGEST_MANIFEST)?,
            fits: raw.platform().map(|platform| platform.rank().is_some()),
            annotations: raw.annotations.unwrap_or_default(),
        })
    };
    manifests.into_iter().filter(RawDescriptor::may_be_image).map(listed).collect()
}

impl Document {
    /// Reads a document, as far as to know that it is one.
    pub(crate) fn read(object: &str, body: &[u8]) -> Result<Self, Error> {
        let raw: RawManifest = serde_json::from_slice(body)
            .map_err(|error| Error::unreadable(object, "not a manifest", &error))?;
        if raw.fs_layers.is_some() || raw.schema_version == 1 {
            let reason = "manifests of schema version 1 are not supported: push the image again";
            return Err(Error::unsupported(object, reason));
        }
        // A body that is two things at once means another image to each reader (CVE-2021-41190).
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(Error::corrupt(object, "the manifest is both an image and an index"));
        }
        match raw.media_type.as_deref().filter(|kind| !kind.is_empty()) {
            Some(kind) if is_index(kind) && raw.manifests.is_none() => {
                Err(Error::corrupt(object, "the index lists no manifests"))
            }
            Some(kind) if is_manifest(kind) && raw.manifests.is_some() => {
                Err(Error::corrupt(object, "the manifest is an index and says that it is an image"))
            }
            Some(kind) if !is_index(kind) && !is_manifest(kind) => {
                Err(Error::unsupported(object, format!("media type {} is not an image", brief(kind))))
            }
            _ if raw.manifests.is_none() && (raw.config.is_none() || raw.layers.is_none()) => {
                Err(Error::corrupt(object, "the manifest has no config or no layers"))
            }
            _ => Ok(Self(raw)),
        }
    }

    /// The manifest, with all that it points at.
    pub(crate) fn manifest(self, object: &str) -> Result<Manifest, Error> {
        match self.0 {
            RawManifest { manifests: Some(entries), .. } => Ok(Manifest::Index(Index { entries })),
            RawManifest { config: Some(config), layers, .. } => {
                ImageManifest::new(object, &config, &layers.unwrap_or_default()).map(Manifest::Image)
            }
            _ => Err(Error::corrupt(object, "the manifest has no config or no layers")),
        }
    }
}

impl Manifest {
    pub(crate) fn parse(object: &str, body: &[u8]) -> Result<Self, Error> {
        Document::read(object, body)?.manifest(object)
    }
}

impl ImageManifest {
    fn new(object: &str, config: &RawDescriptor, layers: &[RawDescriptor]) -> Result<Self, Error> {
        if layers.len() > MOST_LAYERS {
            return Err(Error::TooLarge { object: object.into(), limit: MOST_LAYERS as u64, unit: "layers" });
        }
        let odd_config = config.kind().filter(|kind| !is_config(kind)).map(brief);
        if let Some(layer) = layers.iter().find(|layer| layer.kind().is_some_and(|kind| !is_layer(kind))) {
            let (digest, kind) = (brief(&layer.digest), brief(layer.kind().unwrap_or_default()));
            let reason = match odd_config {
                Some(config) => {
                    format!("configuration of type {config} and layers of type {kind}: not a container image")
                }
                None => {
                    format!("layer {digest} has media type {kind}: tar, tar+gzip and tar+zstd are supported")
                }
            };
            return Err(Error::unsupported(object, reason));
        }
        let layers = layers.iter().map(|layer| descriptor(object, layer, LARGEST_LAYER));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            config: descriptor(object, config, LARGEST_CONFIG)?,
            odd_config,
        })
    }
}

fn descriptor(object: &str, raw: &RawDescriptor, largest: u64) -> Result<Descriptor, Error> {
    let digest = raw.digest.parse().map_err(|reason: String| Error::corrupt(object, reason))?;
    let size = u64::try_from(raw.size)
        .map_err(|_| Error::corrupt(object, format!("the size of {digest} is {}", raw.size)))?;
    if size > largest {
        return Err(Error::TooLarge {
            object: format!("{object}: blob {digest}"),
            limit: largest,
            unit: "bytes",
        });
    }
    Ok(Descriptor { digest, size })
}
