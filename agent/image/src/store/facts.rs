//! `layer.json`: what was learnt about a layer while it was unpacked, beside the layer itself.
//!
//! The records have the short form of it; this one is read when an image is put together, and it is what brings a layer
//! back when the records are lost.

use std::collections::HashMap;
use std::os::fd::AsFd;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::fs::{self, Dir, Mode, OFlags};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::home::{Home, Scratch, read_file};
use super::model::LayerRecord;
use crate::Error;
use crate::digest::Digest;

const FILE: &str = "layer.json";
/// Twice what the limits of the unpacker allow for names, in base64.
const LARGEST: u64 = 256 << 20;

/// A layer, known well enough to check it and to fetch it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub diff_id: Digest,
    #[serde(flatten)]
    pub record: LayerRecord,
    /// Directories that no entry of the archive describes; the empty path is the root.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub implied: Vec<Vec<u8>>,
    /// Directories with whiteouts in them.
    #[serde(default, serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub hiding: Vec<Vec<u8>>,
}

impl Facts {
    /// Blocking.
    pub(crate) fn write(&self, scratch: &Scratch) -> Result<(), Error> {
        let json = serde_json::to_vec(self).map_err(|error| Error::io(format!("write {FILE}"), error))?;
        scratch.write(FILE, &json)
    }

    /// The facts of a layer that is there and holds files if it should; otherwise what is wrong with it. Blocking.
    pub(crate) fn read(home: &Home, diff_id: &Digest) -> Result<Self, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::openat(&home.layers, diff_id.hex(), flags, Mode::empty())
            .map_err(|errno| format!("its directory: {errno}"))?;
        let json = read_file(directory.as_fd(), FILE, LARGEST).map_err(|error| format!("{FILE}: {error}"))?;
        let facts: Self = serde_json::from_slice(&json).map_err(|error| format!("{FILE}: {error}"))?;
        if facts.diff_id != *diff_id {
            return Err(format!("{FILE} is of layer {}", facts.diff_id));
        }
        let files = fs::openat(&directory, "fs", flags, Mode::empty())
            .map_err(|errno| format!("its files: {errno}"))?;
        let is_empty = || -> Result<bool, rustix::io::Errno> {
            for entry in Dir::read_from(&files)? {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if facts.record.footprint.inodes > 1 && is_empty().map_err(|errno| format!("its files: {errno}"))? {
            return Err("its files are gone".into());
        }
        Ok(facts)
    }
}

/// What is known of those of the layers that are as they should be; a damaged one is left out, to be fetched again.
/// Blocking.
pub(crate) fn healthy(home: &Home, diff_ids: impl IntoIterator<Item = Digest>) -> HashMap<Digest, Facts> {
    let read = |diff_id: Digest| match Facts::read(home, &diff_id) {
        Ok(facts) => Some((diff_id, facts)),
        Err(reason) => {
            tracing::warn!(%diff_id, reason, "layer of the image store is damaged");
            None
        }
    };
    diff_ids.into_iter().filter_map(read).collect()
}

fn to_base64<S: Serializer>(paths: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| STANDARD_NO_PAD.encode(path)))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| STANDARD_NO_PAD.decode(text).map_err(serde::de::Error::custom)).collect()
}
