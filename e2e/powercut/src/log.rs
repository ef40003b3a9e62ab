//! The log of a disk's writes, in the format of the kernel's dm-log-writes target
//! (Documentation/admin-guide/device-mapper/log-writes.rst), as QEMU's blklogwrites driver writes it: a super block, then for each
//! write a header of one sector and its data.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, ensure};

/// Bytes of a sector, of the disk and of the log.
pub const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// A request of the file system to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First sector.
    pub sector: u64,
    /// Sectors; 0 for a flush alone.
    pub sectors: u64,
    flags: u64,
    /// Byte of the log at which the data begins.
    pub data_at: u64,
}

impl Entry {
    /// Everything before it was kept by the disk from then on.
    pub fn is_flush(&self) -> bool {
        self.flags & FLUSH != 0
    }

    /// Kept from then on by itself.
    pub fn is_durable(&self) -> bool {
        self.flags & FUA != 0
    }

    /// Without data: the sectors read as zeros.
    pub fn is_discard(&self) -> bool {
        self.flags & DISCARD != 0
    }
}

#[cfg(test)]
impl Entry {
    /// A write.
    pub fn of_write(sector: u64, sectors: u64) -> Self {
        Self { sector, sectors, flags: 0, data_at: 0 }
    }

    /// A flush.
    pub fn flush() -> Self {
        Self { sector: 0, sectors: 0, flags: FLUSH, data_at: 0 }
    }
}

/// Entries so far in a log that is being written: a position in it.
///
/// # Errors
/// It cannot be read, or is no log.
pub fn position(path: &Path) -> Result<u64> {
    entries_of(&File::open(path).with_context(|| format!("open {}", path.display()))?)
}

fn entries_of(file: &File) -> Result<u64> {
    let mut super_block = [0; 28];
    file.read_exact_at(&mut super_block, 0).context("read the log's super block")?;
    let word = |at: usize| number(&super_block, at);
    ensure!(word(0) == MAGIC && word(1) == VERSION, "not a log of writes");
    ensure!(super_block[24..] == 512u32.to_le_bytes(), "the log has sectors of another size");
    Ok(word(2))
}

fn number(bytes: &[u8], word: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[8 * word..8 * word + 8]);
    u64::from_le_bytes(out)
}

/// A log that is complete.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// In the order in which the disk did them.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads all headers.
    ///
    /// # Errors
    /// It cannot be read, or is no log.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let count = entries_of(&file)?;
        let mut entries = Vec::new();
        let mut at = SECTOR;
        for _ in 0..count {
            let mut header = [0; 32];
            file.read_exact_at(&mut header, at).context("read a header of the log")?;
            let word = |at: usize| number(&header, at);
            let entry = Entry { sector: word(0), sectors: word(1), flags: word(2), data_at: at + SECTOR };
            at += SECTOR + if entry.is_discard() { 0 } else { entry.sectors * SECTOR };
            entries.push(entry);
        }
        Ok(Self { file, entries })
    }

    /// The data of the first `sectors` of an entry.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn data(&self, entry: &Entry, sectors: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; usize::try_from(sectors * SECTOR).context("a write of that size")?];
        if !entry.is_discard() {
            self.file.read_exact_at(&mut data, entry.data_at).context("read the data of a write")?;
        }
        Ok(data)
    }

    /// Bytes that were written.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.sectors * SECTOR).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written() -> Result<()> {
        let mut bytes = vec![0; 512];
        bytes[..28].copy_from_slice(
            &[&MAGIC.to_le_bytes()[..], &1u64.to_le_bytes(), &3u64.to_le_bytes(), &512u32.to_le_bytes()]
                .concat(),
        );
        for (sector, sectors, flags) in [(8u64, 2u64, 0u64), (0, 0, FLUSH), (16, 1, FUA)] {
            let mut header =
                [sector.to_le_bytes(), sectors.to_le_bytes(), flags.to_le_bytes(), [0; 8]].concat();
            header.resize(512, 0);
            bytes.extend(header);
            bytes.extend(vec![sector as u8; 512 * sectors as usize]);
        }
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), bytes)?;
        assert_eq!(position(file.path())?, 3);
        let log = Log::open(file.path())?;
        assert!(log.entries[1].is_flush() && log.entries[2].is_durable());
        assert_eq!(log.data(&log.entries[0], 1)?, vec![8; 512]);
        assert_eq!(log.data(&log.entries[2], 1)?, vec![16; 512]);
        assert_eq!(log.bytes(), 3 * 512);
        Ok(())
    }
}
