//! Files of one group's directory: bounded reads, writes whose errors name value and file.

use std::{
    ffi::OsStr,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use holdfast_sys::failpoint;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::Error;

/// Longest control file that is read. The longest is a `cgroup.procs`: a million processes fit.
const MAX_READ: usize = 8 * 1024 * 1024;

/// An open directory of a group in one hierarchy.
#[derive(Debug)]
pub(crate) struct GroupDir {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

impl GroupDir {
    /// Opens it; a missing one is [`Error::NotFound`].
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::NOENT) => Err(Error::NotFound { group: path.display().to_string() }),
            Err(errno) => Err(Error::io("open", path, errno)),
        }
    }

    pub fn open_file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| Error::io("open", self.path.join(name), errno))
    }

    pub fn read(&self, name: &str) -> Result<String, Error> {
        let fd = self.open_file(name, OFlags::RDONLY)?;
        let mut text = Vec::with_capacity(4096);
        read_all(&fd, &mut text).map_err(|errno| Error::io("read", self.path.join(name), errno))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Reads a file that may be missing.
    pub fn read_optional(&self, name: &str) -> Result<Option<String>, Error> {
        match self.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.fd, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok()
    }

    /// One value, one write(2), as cgroup files want it.
    pub fn write(&self, name: &str, value: impl AsRef<str>) -> Result<(), Error> {
        let value = value.as_ref();
        let failed = |source: io::Error| {
            Error::io(format!("write {:?} to", value.trim_end()), self.path.join(name), source)
        };
        failpoint::at("cgroup.file.write").map_err(failed)?;
        let fd = self.open_file(name, OFlags::WRONLY).map_err(|error| match error {
            Error::Io { source, .. } => failed(source),
            other => other,
        })?;
        loop {
            match rustix::io::write(&fd, value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

/// Fills `buffer` with the rest of the file.
fn read_all(fd: &OwnedFd, buffer: &mut Vec<u8>) -> rustix::io::Result<()> {
    loop {
        if buffer.len() >= MAX_READ {
            return Err(Errno::FBIG);
        }
        if buffer.capacity() - buffer.len() < 1024 {
            buffer.reserve(buffer.len().max(4096));
        }
        match rustix::io::read(fd, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A whole file of any directory, bounded.
pub(crate) fn read_file(path: &Path) -> Result<String, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::io("open", path, errno))?;
    let mut text = Vec::with_capacity(4096);
    read_all(&fd, &mut text).map_err(|errno| Error::io("read", path, errno))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The names of the directories in a directory; a missing one has none.
pub(crate) fn subdirectories(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("list", path, error))?;
        // A group that goes away meanwhile has no type any more.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != OsStr::new(".") {
            found.push(entry.path());
        }
    }
    Ok(found)
}
