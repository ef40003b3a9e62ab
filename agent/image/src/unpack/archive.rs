//! A walk over a tar archive that holds nothing in memory but one entry's headers, all of them with limits.
//!
//! The `tar` crate's own iterator reads extended headers of any size and splits PAX records at newlines, which
//! file capabilities may contain; so the blocks are walked here, and the crate gives the header layout.

use std::io::{self, Read};

use tar::Header;

use super::fault::{Fault, show};
use super::number::{checksums, cut_at_nul, number};
use super::pax::Extended;

pub(super) const BLOCK: usize = 512;

/// What the store takes from one archive.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Entries of an archive.
    pub entries: u64,
    /// Bytes of an archive once it is decompressed.
    pub bytes: u64,
    /// Bytes of the extended headers of one entry.
    pub extended: u64,
    /// Pieces of one sparse file.
    pub pieces: usize,
    /// Bytes of directory names kept in memory while an archive is unpacked.
    pub remembered: u64,
    /// Bytes that have to stay free on the disk.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 256 << 30,
            extended: 1 << 20,
            pieces: 65_536,
            remembered: 64 << 20,
            reserve: 64 << 20,
        }
    }
}

/// Longest path and link target, as the kernel has it (PATH_MAX without the NUL).
const LONGEST_PATH: usize = 4095;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
}

/// One entry; its data is read from the archive before the next one.
#[derive(Debug)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file; the data has fewer bytes when it is sparse.
    pub size: u64,
    /// Offset and length of each piece of data; one piece unless the file is sparse.
    pub pieces: Vec<(u64, u64)>,
}

/// The archive.
pub(crate) struct Archive<'a, R> {
    pub(super) reader: R,
    pub(super) limits: &'a Limits,
    /// Data of the current entry that nobody has read yet, and the padding behind it.
    pub(super) remaining: u64,
    padding: u64,
    entries: u64,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(crate) fn new(reader: R, limits: &'a Limits) -> Self {
        Self { reader, limits, remaining: 0, padding: 0, entries: 0 }
    }

    /// Entries seen so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry, or nothing at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extended = Extended::default();
        let mut spent = 0;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(too_large("number of entries", self.limits.entries, "entries"));
            }
            let size = number(&header.as_old().size).ok_or_else(|| bad(header, "size is not a number"))?;
            match header.as_old().linkflag[0] {
                flag @ (b'L' | b'K' | b'x' | b'X' | b'g') => {
                    let data = self.extension(size, &mut spent)?;
                    match flag {
                        b'L' => extended.path = Some(cut_at_nul(&data)),
                        b'K' => extended.link = Some(cut_at_nul(&data)),
                        // A global header is a comment to us, as it is to containerd.
                        b'g' => {}
                        _ => extended.parse(&data)?,
                    }
                }
                flag => return self.entry(header, flag, size, extended).map(Some),
            }
        }
    }

    /// Reads from the data of the current entry.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.reader.read(&mut buffer[..want]).map_err(Fault::read)?;
        if got == 0 {
            return Err(Fault::Corrupt("the archive ends in the middle of a file".into()));
        }
        self.remaining -= got as u64;
        Ok(got)
    }

    pub(super) fn read_exact_data(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_data(&mut buffer[done..])? {
                0 => return Err(Fault::Corrupt("an entry is shorter than its contents say".into())),
                got => done += got,
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        let rest = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(rest), &mut io::sink()).map_err(Fault::read)?;
        // The padding of the last file may be missing in archives that were cut by hand; its data may not.
        if skipped < self.remaining {
            return Err(Fault::Corrupt("the archive ends in the middle of a file".into()));
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block, checked; nothing at the end: a zero block or the end of the stream.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0_u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Fault::Corrupt("the archive ends in the middle of a header".into())),
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::read(error)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        let stored = number(&header.as_old().cksum);
        let (unsigned, signed) = checksums(&block);
        if stored != Some(unsigned) && stored.map(|sum| sum as i64) != Some(signed) {
            return Err(Fault::Corrupt(
                "a header has the wrong checksum: not a tar archive, or damaged".into(),
            ));
        }
        Ok(Some(block))
    }

    /// Reads an extended header's data; the headers of one entry share a limit.
    fn extension(&mut self, size: u64, spent: &mut u64) -> Result<Vec<u8>, Fault> {
        *spent = spent.saturating_add(size);
        if *spent > self.limits.extended {
            return Err(too_large("extended header", self.limits.extended, "bytes"));
        }
        self.begin_data(size);
        let mut data = vec![0; size as usize];
        self.read_exact_data(&mut data)?;
        Ok(data)
    }

    pub(super) fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        size: u64,
        mut extended: Extended,
    ) -> Result<Entry, Fault> {
        let mut path = extended.path.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match flag {
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let reason = format!("{}: entry type {:?} is not supported", show(&path), char::from(other));
                return Err(Fault::Unsupported(reason));
            }
        };
        // Only files have data, whatever the size field of another entry says (as in Go's archive/tar). A directory that
        // is written like a file may have some, which is passed over.
        let has_data = matches!(flag, b'0' | 0 | b'7' | b'S');
        let size = if has_data { extended.size.unwrap_or(size) } else { 0 };
        if size > self.limits.bytes {
            return Err(too_large(&show(&path), self.limits.bytes, "bytes"));
        }
        self.begin_data(size);
        let (size, pieces) = if kind == Kind::File {
            if let Some(name) = extended.sparse_name.take() {
                path = name;
            }
            self.pieces(header, flag, size, &extended)?
        } else {
            (0, Vec::new())
        };
        let link = match kind {
            Kind::Symlink | Kind::HardLink => extended
                .link
                .take()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        if path.len() > LONGEST_PATH || link.len() > LONGEST_PATH {
            return Err(too_large(&format!("path or link {}", show(&path)), LONGEST_PATH as u64, "bytes"));
        }
        let old = header.as_old();
        let id = |extended: Option<u64>, field: &[u8]| {
            extended
                .or_else(|| number(field))
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id != u32::MAX)
        };
        let uid =
            id(extended.uid, &old.uid).ok_or_else(|| bad(header, "the owner is not a 32 bit number"))?;
        let gid =
            id(extended.gid, &old.gid).ok_or_else(|| bad(header, "the group is not a 32 bit number"))?;
        let mode = number(&old.mode).ok_or_else(|| bad(header, "the mode is not a number"))?;
        let mtime = extended.mtime.unwrap_or_else(|| (number(&old.mtime).unwrap_or(0) as i64, 0));
        let device = match kind {
            Kind::Character | Kind::Block => {
                device(header).ok_or_else(|| bad(header, "the device is not a number"))?
            }
            _ => (0, 0),
        };
        Ok(Entry {
            kind,
            path,
            link,
            mode: (mode & 0o7777) as u32,
            uid,
            gid,
            mtime: (mtime.0.clamp(-(1 << 31), 1 << 34), mtime.1),
            device,
            xattrs: extended.xattrs,
            size,
            pieces,
        })
    }
}

fn device(header: &Header) -> Option<(u32, u32)> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return None,
    };
    Some((u32::try_from(number(major)?).ok()?, u32::try_from(number(minor)?).ok()?))
}

pub(super) fn bad(header: &Header, reason: &str) -> Fault {
    Fault::Corrupt(format!("{}: {reason}", show(&header.path_bytes())))
}

pub(super) fn too_large(what: &str, limit: u64, unit: &'static str) -> Fault {
    Fault::TooLarge { what: what.to_owned(), limit, unit }
}
