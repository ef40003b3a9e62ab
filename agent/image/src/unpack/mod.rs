//! Unpacks one layer: bytes of a blob in, files in a private directory out, with both digests.

mod archive;
mod fault;
mod pax;
mod remove;
mod stream;
mod tree;

use std::io::{BufReader, Read};
use std::os::fd::BorrowedFd;

pub(crate) use archive::{Archive, Kind, Limits};
pub(crate) use fault::{Fault, show};
pub(crate) use remove::{empty, move_into};
pub(crate) use stream::{Hashing, decompress};
pub(crate) use tree::Footprint;
use tree::Tree;

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
}

/// Unpacks a blob (tar, gzip or zstd) into the empty directory `root`. Blocking. On an error `root` holds a part of
/// the layer, for the caller to remove.
pub(crate) fn unpack(
    source: impl Read,
    root: BorrowedFd<'_>,
    trash: BorrowedFd<'_>,
    limits: &Limits,
    grow: &dyn Fn(Footprint),
) -> Result<Unpacked, Fault> {
    let mut blob = Hashing::new(source, u64::MAX);
    let decoder = decompress(&mut blob)?;
    let mut tar = Hashing::new(decoder, limits.bytes);
    let mut archive = Archive::new(BufReader::with_capacity(64 << 10, &mut tar), limits);
    let mut tree = Tree::new(root, trash, limits.reserve);
    while let Some(entry) = archive.next()? {
        tree.apply(&entry, &mut archive)?;
        grow(tree.footprint());
    }
    let entries = archive.entries();
    drop(archive);
    let (footprint, implied) = tree.finish()?;
    grow(footprint);
    let (diff_id, _) = tar.finish().map_err(Fault::read)?;
    let (digest, size) = blob.finish().map_err(Fault::read)?;
    Ok(Unpacked { digest, size, diff_id, entries, footprint, implied })
}
