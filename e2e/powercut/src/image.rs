//! Content of the disk at some moment: an image that moves forward along the log, and copies of it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};

use crate::{
    cuts::Kept,
    device::SIZE,
    log::{Log, SECTOR},
};

/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;

/// The disk after all entries up to some position.
#[derive(Debug)]
pub struct Base {
    file: File,
    at: usize,
}

impl Base {
    /// An empty disk.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn empty(path: &Path) -> Result<Self> {
        Ok(Self { file: disk(path)?, at: 0 })
    }

    /// Moves on until `to` entries are done.
    ///
    /// # Errors
    /// A file cannot be read or written; `to` lies behind.
    pub fn advance(&mut self, log: &Log, to: usize) -> Result<()> {
        ensure!(to >= self.at, "an image cannot go back");
        for at in self.at..to {
            apply(&self.file, log, Kept { entry: at, sectors: log.entries[at].sectors })?;
        }
        self.at = to;
        Ok(())
    }

    /// A copy with some more writes.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn copy(&self, path: &Path, log: &Log, kept: &[Kept]) -> Result<PathBuf> {
        let copy = disk(path)?;
        copy_data(&self.file, &copy).context("copy a disk")?;
        kept.iter().try_for_each(|kept| apply(&copy, log, *kept))?;
        Ok(path.to_owned())
    }
}

fn disk(path: &Path) -> Result<File> {
    let _ = std::fs::remove_file(path);
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("create {}", path.display()))?;
    file.set_len(SIZE).with_context(|| format!("size {}", path.display()))?;
    Ok(file)
}

fn apply(file: &File, log: &Log, kept: Kept) -> Result<()> {
    let entry = &log.entries[kept.entry];
    if kept.sectors == 0 {
        return Ok(());
    }
    let (at, length) = (entry.sector * SECTOR, kept.sectors * SECTOR);
    let data = log.data(entry, kept.sectors)?;
    // Zeros, of which mkfs and journals write many, need not be copied for each cut.
    if data.iter().all(|byte| *byte == 0) {
        return fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length)
            .context("discard a part of a disk");
    }
    file.write_all_at(&data, at).context("write to a disk")
}

/// Copies what is no hole.
fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE as usize];
    let mut at = 0;
    loop {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(()),
            other => other?,
        };
        let end = seek(from, SeekFrom::Hole(begin))?;
        at = begin;
        while at < end {
            let piece = &mut piece[..PIECE.min(end - at) as usize];
            from.read_exact_at(piece, at)?;
            to.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write};

    #[test]
    fn a_copy_has_the_data_and_the_holes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let base = Base::empty(&dir.path().join("base"))?;
        base.file.write_all_at(b"one", 5000)?;
        base.file.write_all_at(b"two", SIZE - 3)?;
        let copy = dir.path().join("copy");
        let log = dir.path().join("log");
        let mut super_block = vec![0; 512];
        (&mut super_block[..]).write_all(
            &[
                &0x006a_7366_7773_6872u64.to_le_bytes()[..],
                &1u64.to_le_bytes(),
                &0u64.to_le_bytes(),
                &512u32.to_le_bytes(),
            ]
            .concat(),
        )?;
        fs::write(&log, super_block)?;
        base.copy(&copy, &Log::open(&log)?, &[])?;
        let copied = File::open(&copy)?;
        let mut bytes = [0; 3];
        copied.read_exact_at(&mut bytes, 5000)?;
        assert_eq!(&bytes, b"one");
        copied.read_exact_at(&mut bytes, SIZE - 3)?;
        assert_eq!(&bytes, b"two");
        assert_eq!(copied.metadata()?.len(), SIZE);
        Ok(())
    }
}
