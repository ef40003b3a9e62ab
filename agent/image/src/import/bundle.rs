//! What an import reads from: files by name, from a directory or from an archive.
//!
//! The members of an archive come in any order (docker puts the list of its images last), so they are written to a work
//! directory first, under numbers of ours. A name of the archive is a key in a map and never reaches the file system.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Error;
use crate::config::ImportSource;
use crate::error::brief;
use crate::store::{Home, Scratch};
use crate::unpack::{Archive, Bounded, Entry, Fault, Kind, Limits, Space, decompress, show};

/// Links of an archive that lead to a link.
const MOST_LINKS: usize = 8;
const BUFFER: usize = 128 << 10;

/// The files of an import.
pub(super) enum Bundle {
    Directory(OwnedFd),
    Spool { scratch: Scratch, members: HashMap<String, Member> },
}

/// A member of an archive.
pub(super) enum Member {
    /// A file of this name in the work directory.
    File(String),
    /// Another member.
    Link(String),
}

impl Bundle {
    /// Opens a directory, or reads an archive to its end. Blocking, until `stop` is set.
    pub(super) fn open(source: ImportSource, home: &Arc<Home>, stop: &AtomicBool) -> Result<Self, Error> {
        match source {
            ImportSource::Path(path) if path.is_dir() => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = fs::openat(CWD, &path, flags, Mode::empty())
                    .map_err(|errno| Error::io(format!("open {}", path.display()), errno))?;
                Ok(Self::Directory(directory))
            }
            ImportSource::Path(path) => {
                let file = File::open(&path)
                    .map_err(|source| Error::Io { operation: format!("open {}", path.display()), source })?;
                spool(file, home, stop)
            }
            ImportSource::Reader(reader) => spool(reader, home, stop),
        }
    }

    /// A file and its size; none if there is no such name. Blocking.
    pub(super) fn file(&self, name: &str) -> Result<Option<(File, u64)>, Error> {
        let fault = |source: io::Error| Error::Io { operation: format!("open {}", quoted(name)), source };
        let file = match self {
            Self::Directory(directory) => {
                // NONBLOCK: nobody may hold us up with a FIFO.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                match fs::openat2(directory, name, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    Err(Errno::XDEV) => {
                        return Err(Error::corrupt(quoted(name), "leads out of the directory"));
                    }
                    Err(errno) => return Err(fault(errno.into())),
                }
            }
            Self::Spool { scratch, members } => {
                let Some(file) = follow(members, name)? else { return Ok(None) };
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = fs::openat(scratch.directory(), file, flags, Mode::empty());
                File::from(file.map_err(|errno| fault(errno.into()))?)
            }
        };
        let metadata = file.metadata().map_err(fault)?;
        if !metadata.is_file() {
            return Err(Error::corrupt(quoted(name), "not a regular file"));
        }
        Ok(Some((file, metadata.len())))
    }

    /// A whole file of at most `limit` bytes. Blocking.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some((file, size)) = self.file(name)? else { return Ok(None) };
        if size > limit {
            return Err(Error::TooLarge { object: quoted(name), limit, unit: "bytes" });
        }
        let mut bytes = Vec::new();
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Io { operation: format!("read {}", quoted(name)), source })?;
        Ok(Some(bytes))
    }
}

fn quoted(name: &str) -> String {
    format!("file {} of the archive", brief(name))
}

fn follow<'a>(members: &'a HashMap<String, Member>, name: &str) -> Result<Option<&'a str>, Error> {
    let Some(mut name) = clean(name.as_bytes()) else { return Ok(None) };
    for _ in 0..MOST_LINKS {
        match members.get(&name) {
            None => return Ok(None),
            Some(Member::File(file)) => return Ok(Some(file)),
            Some(Member::Link(target)) => name.clone_from(target),
        }
    }
    Err(Error::corrupt(quoted(&name), "a link to a link to a link"))
}

fn spool(source: impl Read, home: &Arc<Home>, stop: &AtomicBool) -> Result<Bundle, Error> {
    let limits = Limits { entries: 100_000, ..Limits::default() };
    let scratch = Scratch::new(home)?;
    let mut members = HashMap::new();
    read_members(Source(source), &scratch, &mut members, &limits, stop)
        .map_err(|fault| fault.named("image archive"))?;
    Ok(Bundle::Spool { scratch, members })
}

fn read_members(
    source: impl Read,
    scratch: &Scratch,
    members: &mut HashMap<String, Member>,
    limits: &Limits,
    stop: &AtomicBool,
) -> Result<(), Fault> {
    let tar = Bounded::new(decompress(source)?, limits.bytes, stop);
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, tar), limits);
    let mut space = Space::new(scratch.directory(), limits.reserve);
    let mut buffer = vec![0; BUFFER];
    let mut remembered = 0;
    while let Some(entry) = archive.next()? {
        let refused = |reason: &str| Fault::Corrupt(format!("{}: {reason}", show(&entry.path)));
        let name = clean(&entry.path).ok_or_else(|| refused("the path leads upwards or is no text"))?;
        remembered += (entry.path.len() + entry.link.len()) as u64;
        if remembered > limits.remembered {
            let what = "names of its files".into();
            return Err(Fault::TooLarge { what, limit: limits.remembered, unit: "bytes" });
        }
        let member = match entry.kind {
            Kind::Directory => continue,
            Kind::File => Member::File(copy(&entry, &mut archive, scratch, &mut space, &mut buffer)?),
            Kind::HardLink => {
                Member::Link(clean(&entry.link).ok_or_else(|| refused("its link leads upwards"))?)
            }
            Kind::Symlink => {
                Member::Link(beside(&name, &entry.link).ok_or_else(|| refused("its link leads out"))?)
            }
            Kind::Character | Kind::Block | Kind::Fifo => {
                return Err(refused("a device in an image archive"));
            }
        };
        members.insert(name, member);
    }
    Ok(())
}

/// Writes a member to a file of the work directory and returns its name.
fn copy(
    entry: &Entry,
    archive: &mut Archive<'_, impl Read>,
    scratch: &Scratch,
    space: &mut Space<'_>,
    buffer: &mut [u8],
) -> Result<String, Fault> {
    if !matches!(entry.pieces[..], [(0, length)] if length == entry.size) {
        return Err(Fault::Unsupported(format!(
            "{}: sparse files are not supported here",
            show(&entry.path)
        )));
    }
    let name = archive.entries().to_string();
    let fault =
        |source| Fault::Io { operation: format!("write {} to the image store", show(&entry.path)), source };
    let mut file = scratch.create(&name).map_err(|error| fault(io::Error::other(error)))?;
    loop {
        let got = archive.read_data(buffer)?;
        if got == 0 {
            return Ok(name);
        }
        space.take(got as u64)?;
        file.write_all(&buffer[..got]).map_err(fault)?;
    }
}

/// A name without `.` and doubled slashes; none if it has `..` or is not UTF-8.
fn clean(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts = path.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let mut name = String::new();
    while let Some(part) = parts.next() {
        if part == ".." {
            return None;
        }
        name.push_str(part);
        if parts.peek().is_some() {
            name.push('/');
        }
    }
    Some(name)
}

/// Where a symlink leads, by the text alone; none if that is outside.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/'))?;
    let mut parts: Vec<&str> =
        Path::new(name).parent()?.to_str()?.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// A source whose own failures cannot be taken for those of a decoder.
struct Source<R>(R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ if error.raw_os_error().is_some() => error,
            _ => io::Error::new(io::ErrorKind::ConnectionAborted, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(clean(b"./a//b/./c").as_deref(), Some("a/b/c"));
        assert_eq!(clean(b"/a").as_deref(), Some("a"));
        assert_eq!(clean(b"a/../b"), None);
        assert_eq!(clean(b"a\xff"), None);
        assert_eq!(beside("x/layer.tar", b"../y/layer.tar").as_deref(), Some("y/layer.tar"));
        assert_eq!(beside("x/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(beside("layer.tar", b"/etc/passwd"), None);
    }
}
