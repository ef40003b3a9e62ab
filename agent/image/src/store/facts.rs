//! `layer.json`: what was learnt about a layer while it was unpacked, beside the layer itself.
//!
//! The records have the short form of it; this one is read when an image is put together, and it is what brings a layer
//! back when the records are lost.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::fs::{self, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::home::{Home, Scratch, blames_content, digests, read_file};
use super::model::LayerRecord;
use crate::Error;
use crate::digest::Digest;

pub(super) const FILE: &str = "layer.json";
/// Twice what the limits of the unpacker allow for names, in base64.
const LARGEST: u64 = 256 << 20;
/// Threads that read all layers, and layers that are worth one more.
const READERS: usize = 8;
const LEAST_OF_READER: usize = 64;

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

    /// The facts of a layer that is there and holds files if it should. Blocking.
    pub(crate) fn read(home: &Home, diff_id: &Digest) -> Result<Self, Unfit> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = fs::openat(&home.layers, diff_id.hex(), flags, Mode::empty())
            .map_err(|errno| Unfit::of("its directory", errno.into()))?;
        let json = read_file(directory.as_fd(), FILE, LARGEST).map_err(|error| Unfit::of(FILE, error))?;
        let facts: Self =
            serde_json::from_slice(&json).map_err(|error| Unfit::Damaged(format!("{FILE}: {error}")))?;
        if facts.diff_id != *diff_id {
            return Err(Unfit::Damaged(format!("{FILE} is of layer {}", facts.diff_id)));
        }
        let unfit = |errno: Errno| Unfit::of("its files", errno.into());
        let files = fs::openat(&directory, "fs", flags, Mode::empty()).map_err(unfit)?;
        if facts.record.footprint.inodes > 1 && is_empty(files.as_fd()).map_err(unfit)? {
            return Err(Unfit::Damaged("its files are gone".into()));
        }
        Ok(facts)
    }
}

/// Why a layer cannot be used.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// It is not there, or not as it should be: it has to be fetched again.
    Damaged(String),
    /// It cannot be looked at now, which says nothing about it.
    Unseen(io::Error),
}

impl Unfit {
    fn of(what: &str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound || blames_content(&error) {
            return Self::Damaged(format!("{what}: {error}"));
        }
        Self::Unseen(error)
    }
}

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is known of those of the layers that are as they should be; a damaged one is left out, to be fetched again.
/// Blocking.
pub(crate) fn healthy(
    home: &Home,
    diff_ids: impl IntoIterator<Item = Digest>,
) -> Result<HashMap<Digest, Facts>, Error> {
    let mut found = HashMap::new();
    for diff_id in diff_ids {
        match Facts::read(home, &diff_id) {
            Ok(facts) => drop(found.insert(diff_id, facts)),
            Err(Unfit::Damaged(reason)) => {
                tracing::warn!(%diff_id, reason, "layer of the image store is damaged");
            }
            Err(Unfit::Unseen(source)) => {
                return Err(Error::Io { operation: format!("look at layer {diff_id}"), source });
            }
        }
    }
    Ok(found)
}

/// All layers on disk that are as they should be. Blocking.
pub(super) fn all_layers(home: &Home) -> Result<BTreeMap<Digest, LayerRecord>, Error> {
    let diff_ids: Vec<Digest> = digests(home.layers.as_fd())?.into_iter().collect();
    let read = |part: &[Digest]| -> Result<Vec<(Digest, LayerRecord)>, Error> {
        let found = healthy(home, part.iter().cloned())?;
        Ok(found.into_iter().map(|(diff_id, facts)| (diff_id, facts.record)).collect())
    };
    let part = diff_ids.len().div_ceil(READERS).max(LEAST_OF_READER);
    std::thread::scope(|scope| {
        let mut layers = BTreeMap::new();
        let mut readers = Vec::new();
        for part in diff_ids.chunks(part) {
            match std::thread::Builder::new().spawn_scoped(scope, move || read(part)) {
                Ok(reader) => readers.push(reader),
                Err(_) => layers.extend(read(part)?),
            }
        }
        for reader in readers {
            layers.extend(reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(layers)
    })
}

fn to_base64<S: Serializer>(paths: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| STANDARD_NO_PAD.encode(path)))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| STANDARD_NO_PAD.decode(text).map_err(serde::de::Error::custom)).collect()
}
