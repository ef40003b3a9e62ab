//! Images as the tests need them, made in memory.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// `sha256:` and hex.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer: its archive and the blob that it travels in.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub kind: &'static str,
}

impl Layer {
    pub fn plain(tar: Vec<u8>) -> Self {
        Self { blob: tar.clone(), tar, kind: "application/vnd.oci.image.layer.v1.tar" }
    }

    pub fn gzip(tar: Vec<u8>) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        Self { blob: encoder.finish().unwrap(), tar, kind: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    pub fn zstd(tar: Vec<u8>) -> Self {
        let blob = zstd::encode_all(&tar[..], 1).unwrap();
        Self { blob, tar, kind: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }

    pub fn digest(&self) -> String {
        digest(&self.blob)
    }

    pub fn diff_id(&self) -> String {
        digest(&self.tar)
    }
}

/// One entry of an archive.
pub enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Directory(&'a str, u32),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Device(&'a str),
}

/// An archive; names are written as they are, however odd.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let (name, kind, mode, data) = match entry {
            Entry::File(name, data) => (name, tar::EntryType::Regular, 0o644, *data),
            Entry::Directory(name, mode) => (name, tar::EntryType::Directory, *mode, &[][..]),
            Entry::Symlink(name, _) => (name, tar::EntryType::Symlink, 0o777, &[][..]),
            Entry::HardLink(name, _) => (name, tar::EntryType::Link, 0o644, &[][..]),
            Entry::Device(name) => (name, tar::EntryType::Char, 0o644, &[][..]),
        };
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if let Entry::Symlink(_, target) | Entry::HardLink(_, target) = entry {
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An archive of files.
pub fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    archive(&files.iter().map(|(name, data)| Entry::File(name, data)).collect::<Vec<_>>())
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// An image with its manifest.
#[derive(Clone)]
pub struct TestImage {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub kind: String,
}

impl TestImage {
    pub fn new(mark: &str, layers: Vec<Layer>) -> Self {
        Self::with(OCI_MANIFEST, &config(mark, &layers), layers)
    }

    pub fn with(kind: &str, config: &Value, layers: Vec<Layer>) -> Self {
        let config = serde_json::to_vec(config).unwrap();
        let docker = kind == DOCKER_MANIFEST;
        let listed: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let media =
                    if docker { "application/vnd.docker.image.rootfs.diff.tar.gzip" } else { layer.kind };
                json!({ "mediaType": media, "digest": layer.digest(), "size": layer.blob.len() })
            })
            .collect();
        let config_kind = if docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": { "mediaType": config_kind, "digest": digest(&config), "size": config.len() },
            "layers": listed,
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        Self { layers, config, manifest, kind: kind.to_owned() }
    }

    pub fn id(&self) -> String {
        digest(&self.config)
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.kind, "digest": self.digest(), "size": self.manifest.len() })
    }
}

/// A configuration whose environment holds a mark.
pub fn config(mark: &str, layers: &[Layer]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(Layer::diff_id).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Env": [format!("MARK={mark}")], "Cmd": ["/run"], "User": "1000:1000", "Volumes": { "/data": {} } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// A small image of one layer.
pub fn small(mark: &str) -> TestImage {
    TestImage::new(mark, vec![Layer::gzip(files(&[("mark", mark.as_bytes())]))])
}
