//! Unpacks one layer: bytes of a blob in, files in a private directory out, with both digests.

mod archive;
mod fault;
mod metadata;
mod number;
mod pax;
mod remove;
mod space;
mod sparse;
mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tree;
mod walk;

use std::io::{BufReader, Read};
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;

pub(crate) use archive::{Archive, Entry, Kind, Limits};
pub(crate) use fault::{Fault, show};
pub(crate) use metadata::Footprint;
pub(crate) use remove::move_into;
pub(crate) use space::Space;
use stream::Hashing;
pub(crate) use stream::{Bounded, decompress};
use tree::{Finished, Tree};
pub(crate) use walk::open_directory;

use crate::digest::Digest;

/// What came out of a layer's blob.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Digest of the blob as it came.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Digest of the archive inside.
    pub diff_id: Digest,
    /// Entries of the archive.
    pub entries: u64,
    /// What it takes on disk.
    pub footprint: Footprint,
    /// Directories that the archive's paths imply without an entry of their own; empty path: the root.
    pub implied: Vec<Vec<u8>>,
    /// Directories with whiteouts in them.
    pub hiding: Vec<Vec<u8>>,
}

/// Why a blob could not be unpacked.
#[derive(Debug)]
pub(crate) struct Failed {
    pub fault: Fault,
    /// Digest of the whole blob, if the blame may lie with its bytes and they could be read to the end: those of
    /// another blob need no further explanation.
    pub digest: Option<Digest>,
}

/// Unpacks a blob (tar, gzip or zstd) into the empty directory `root`. Blocking, until `stop` is set: few bytes may
/// decompress to very many. On an error `root` holds a part of the layer, for the caller to remove.
pub(crate) fn unpack(
    source: impl Read,
    root: BorrowedFd<'_>,
    trash: BorrowedFd<'_>,
    limits: &Limits,
    stop: &AtomicBool,
) -> Result<Unpacked, Failed> {
    let mut blob = Hashing::new(source, u64::MAX, stop);
    match apply(&mut blob, root, trash, limits, stop) {
        Ok((entries, Finished { footprint, implied, hiding }, diff_id)) => {
            let (digest, size) =
                blob.finish().map_err(|error| Failed { fault: Fault::read(error), digest: None })?;
            Ok(Unpacked { digest, size, diff_id, entries, footprint, implied, hiding })
        }
        Err(fault @ (Fault::Corrupt(_) | Fault::Unsupported(_))) => {
            Err(Failed { fault, digest: blob.finish().ok().map(|(digest, _)| digest) })
        }
        Err(fault) => Err(Failed { fault, digest: None }),
    }
}

type Applied = (u64, Finished, Digest);

fn apply(
    blob: &mut impl Read,
    root: BorrowedFd<'_>,
    trash: BorrowedFd<'_>,
    limits: &Limits,
    stop: &AtomicBool,
) -> Result<Applied, Fault> {
    let mut tar = Hashing::new(decompress(blob)?, limits.bytes, stop);
    let mut archive = Archive::new(BufReader::with_capacity(64 << 10, &mut tar), limits);
    let mut tree = Tree::new(root, trash, limits);
    while let Some(entry) = archive.next()? {
        tree.apply(&entry, &mut archive)?;
    }
    let entries = archive.entries();
    drop(archive);
    let finished = tree.finish()?;
    let (diff_id, _) = tar.finish().map_err(Fault::read)?;
    Ok((entries, finished, diff_id))
}
