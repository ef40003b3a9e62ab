//! Manifests, indexes and configurations: what of them is believed, and what is refused.
//!
//! The media types are oci-client's; what its types leave open (both `layers` and `manifests`, foreign media
//! types, negative sizes) is decided here, before anything is downloaded.

mod config;
mod platform;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;

use oci_client::manifest as media;
use serde::Deserialize;

pub(crate) use self::config::Config;
use self::platform::{Platform, architecture};
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

/// Media types that we ask a registry for.
pub(crate) const ACCEPT: [&str; 4] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
];

const LAYER_TYPES: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

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
    Image { config: Descriptor, layers: Vec<Descriptor> },
    /// Images of several platforms; the manifest for this machine.
    Index(Descriptor),
}

#[derive(Deserialize)]
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: i64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// An entry of the index of an OCI layout.
#[derive(Debug)]
pub(crate) struct Listed {
    pub descriptor: Descriptor,
    /// Whether it may run here; an entry without a platform may.
    pub fits: bool,
    pub annotations: BTreeMap<String, String>,
}

/// The manifests and indexes that a layout's `index.json` lists.
pub(crate) fn list(object: &str, body: &[u8]) -> Result<Vec<Listed>, Error> {
    let raw: RawManifest =
        serde_json::from_slice(body).map_err(|error| Error::unreadable(object, "not an index", &error))?;
    let manifests = raw.manifests.ok_or_else(|| Error::corrupt(object, "the index lists no manifests"))?;
    let known = |raw: &RawDescriptor| raw.media_type.as_deref().is_none_or(|kind| ACCEPT.contains(&kind));
    let listed = |raw: RawDescriptor| {
        Ok(Listed {
            descriptor: descriptor(object, &raw, LARGEST_MANIFEST)?,
            fits: raw.platform.as_ref().is_none_or(|platform| platform.fits().is_some()),
            annotations: raw.annotations.unwrap_or_default(),
        })
    };
    manifests.into_iter().filter(known).map(listed).collect()
}

impl Manifest {
    /// Reads a manifest. `content_type`: the registry's header or the descriptor's media type, if there is one.
    pub(crate) fn parse(object: &str, body: &[u8], content_type: Option<&str>) -> Result<Self, Error> {
        let raw: RawManifest = serde_json::from_slice(body)
            .map_err(|error| Error::unreadable(object, "not a manifest", &error))?;
        if raw.fs_layers.is_some() || raw.schema_version == 1 {
            return Err(Error::unsupported(
                object,
                "manifests of schema version 1 are not supported: push the image again",
            ));
        }
        // A body that is two things at once means another image to each reader (CVE-2021-41190).
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(Error::corrupt(object, "the manifest is both an image and an index"));
        }
        let kind = raw.media_type.as_deref().or(content_type);
        if let (Some(inner), Some(outer)) = (&raw.media_type, content_type)
            && ACCEPT.contains(&outer)
            && inner != outer
        {
            let reason = format!("the manifest says {}, its registry {outer}", brief(inner));
            return Err(Error::corrupt(object, reason));
        }
        match kind {
            Some(media::OCI_IMAGE_INDEX_MEDIA_TYPE | media::IMAGE_MANIFEST_LIST_MEDIA_TYPE)
                if raw.manifests.is_none() =>
            {
                return Err(Error::corrupt(object, "the index lists no manifests"));
            }
            Some(media::OCI_IMAGE_MEDIA_TYPE | media::IMAGE_MANIFEST_MEDIA_TYPE)
                if raw.manifests.is_some() =>
            {
                return Err(Error::corrupt(object, "the manifest is an index and says that it is an image"));
            }
            Some(kind) if raw.media_type.is_some() && !ACCEPT.contains(&kind) => {
                return Err(Error::unsupported(
                    object,
                    format!("media type {} is not an image", brief(kind)),
                ));
            }
            _ => {}
        }
        match raw.manifests {
            Some(manifests) => choose(object, &manifests).map(Self::Index),
            None => Self::image(object, raw.config, raw.layers),
        }
    }

    fn image(
        object: &str,
        config: Option<RawDescriptor>,
        layers: Option<Vec<RawDescriptor>>,
    ) -> Result<Self, Error> {
        let (Some(config), Some(layers)) = (config, layers) else {
            return Err(Error::corrupt(object, "the manifest has no config or no layers"));
        };
        match config.media_type.as_deref() {
            None | Some(media::IMAGE_CONFIG_MEDIA_TYPE | media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE) => {}
            Some(other) => {
                return Err(Error::unsupported(
                    object,
                    format!("configuration of type {}: not a container image", brief(other)),
                ));
            }
        }
        if layers.len() > MOST_LAYERS {
            return Err(Error::TooLarge { object: object.into(), limit: MOST_LAYERS as u64, unit: "layers" });
        }
        let config = descriptor(object, &config, LARGEST_CONFIG)?;
        let mut checked = Vec::with_capacity(layers.len());
        for layer in &layers {
            let kind = layer.media_type.as_deref().unwrap_or(LAYER_TYPES[0]);
            if !LAYER_TYPES.contains(&kind) {
                let reason = format!(
                    "layer {} has media type {}: tar, tar+gzip and tar+zstd are supported",
                    brief(&layer.digest),
                    brief(kind)
                );
                return Err(Error::unsupported(object, reason));
            }
            checked.push(descriptor(object, layer, LARGEST_LAYER)?);
        }
        Ok(Self::Image { config, layers: checked })
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

/// The manifest for this machine: the best fit, then the first; one without a platform if nothing else is there.
fn choose(object: &str, manifests: &[RawDescriptor]) -> Result<Descriptor, Error> {
    let mut best: Option<(u8, &RawDescriptor)> = None;
    for raw in manifests {
        let kind = raw.media_type.as_deref();
        if kind.is_some_and(|kind| !ACCEPT.contains(&kind)) {
            continue;
        }
        let fit = match &raw.platform {
            Some(platform) => platform.fits(),
            None => Some(0),
        };
        if let Some(fit) = fit
            && best.is_none_or(|(known, _)| fit > known)
        {
            best = Some((fit, raw));
        }
    }
    if let Some((_, raw)) = best {
        return descriptor(object, raw, LARGEST_MANIFEST);
    }
    let platforms = manifests.iter().filter_map(|raw| raw.platform.as_ref());
    let mut known: Vec<String> = platforms.map(Platform::show).take(20).collect();
    known.sort();
    let reason = format!("no manifest for linux/{}, only for: {}", architecture(), known.join(", "));
    Err(Error::unsupported(object, reason))
}
