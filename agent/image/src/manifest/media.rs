//! Media types: which of them name an image, an index, a layer or a configuration.
//!
//! Builders and caches write the same thing in several ways (Docker's names and OCI's, foreign layers, a compression as
//! `+gzip` or `.gzip`), and what they write about a layer's compression is often wrong: so a name only says what kind of
//! thing it is, and the first bytes of a layer say how it is compressed, as in containerd.

use oci_client::manifest as media;

/// Media types that we ask a registry for.
pub(crate) const ACCEPT: [&str; 4] = [
    media::OCI_IMAGE_INDEX_MEDIA_TYPE,
    media::OCI_IMAGE_MEDIA_TYPE,
    media::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    media::IMAGE_MANIFEST_MEDIA_TYPE,
];

/// Layers without a compression in their name; foreign ones are what OCI later called nondistributable.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

pub(super) fn is_manifest(kind: &str) -> bool {
    matches!(kind, media::OCI_IMAGE_MEDIA_TYPE | media::IMAGE_MANIFEST_MEDIA_TYPE)
}

pub(super) fn is_index(kind: &str) -> bool {
    matches!(kind, media::OCI_IMAGE_INDEX_MEDIA_TYPE | media::IMAGE_MANIFEST_LIST_MEDIA_TYPE)
}

pub(super) fn is_config(kind: &str) -> bool {
    matches!(kind, media::IMAGE_CONFIG_MEDIA_TYPE | media::IMAGE_DOCKER_CONFIG_MEDIA_TYPE)
}

pub(super) fn is_layer(kind: &str) -> bool {
    let compressions = ["", "+gzip", ".gzip", "+zstd", ".zstd"];
    LAYERS.iter().any(|layer| kind.strip_prefix(layer).is_some_and(|rest| compressions.contains(&rest)))
}
