//! A layer that is unpacked and checked, but not yet shown: no name leads to it, and no record.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use super::facts::Facts;
use super::home::{Home, Scratch};
use super::model::{Blob, LayerRecord};
use crate::Error;
use crate::blocking::failpoint;
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::registry::check_digest;
use crate::unpack::{Failed, Limits, Unpacked, unpack};

/// Discarded when the last pull that wants it drops it, unless one has published it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub facts: Facts,
    files: OwnedFd,
    scratch: Mutex<Scratch>,
}

impl Staged {
    /// Unpacks a layer from the bytes of its blob. `blob`: what the blob has to be, if that is known. Blocking, until
    /// `stop` is set.
    pub(crate) fn unpack(
        home: &Arc<Home>,
        source: impl Read,
        blob: Option<&Descriptor>,
        diff_id: &Digest,
        object: &str,
        stop: &AtomicBool,
    ) -> Result<Self, Error> {
        let scratch = Scratch::new(home)?;
        let files = scratch.make("fs")?;
        let replaced = scratch.make("replaced")?;
        let unpacked = unpack(source, files.as_fd(), replaced.as_fd(), &Limits::default(), stop)
            .map_err(|failed| explain(failed, blob, object))?;
        scratch.unmake("replaced")?;
        if let Some(blob) = blob {
            check_blob(object, blob, &unpacked)?;
        }
        check_digest(&format!("{object}, decompressed"), diff_id, &unpacked.diff_id)?;
        let record = LayerRecord {
            blob: Blob { digest: unpacked.digest, size: unpacked.size },
            entries: unpacked.entries,
            footprint: unpacked.footprint,
        };
        let facts =
            Facts { diff_id: unpacked.diff_id, record, implied: unpacked.implied, hiding: unpacked.hiding };
        failpoint("image.layer.write")?;
        facts.write(&scratch)?;
        Ok(Self { facts, files, scratch: Mutex::new(scratch) })
    }

    /// The layer's files.
    pub(crate) fn files(&self) -> BorrowedFd<'_> {
        self.files.as_fd()
    }

    /// Gives the layer its name. Blocking; the caller has the records and has synced.
    pub(super) fn publish(&self, home: &Home) -> Result<(), Error> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.publish(home.layers.as_fd(), self.facts.diff_id.hex())
    }
}

fn check_blob(object: &str, blob: &Descriptor, unpacked: &Unpacked) -> Result<(), Error> {
    if unpacked.size != blob.size {
        let object = object.to_owned();
        return Err(Error::SizeMismatch { object, expected: blob.size, actual: unpacked.size });
    }
    check_digest(object, &blob.digest, &unpacked.digest)
}

/// Bytes that are not those of the layer explain any fault in them.
fn explain(failed: Failed, blob: Option<&Descriptor>, object: &str) -> Error {
    let wrong = match (&failed.digest, blob) {
        (Some(actual), Some(blob)) => check_digest(object, &blob.digest, actual).err(),
        _ => None,
    };
    wrong.unwrap_or_else(|| failed.fault.named(object))
}
