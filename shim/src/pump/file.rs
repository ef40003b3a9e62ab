//! The log file.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::records::Sink;

/// A log file and its path.
#[derive(Debug)]
pub struct LogFile {
    path: CString,
    file: OwnedFd,
}

impl LogFile {
    /// Opens it, and makes it with mode 0640.
    ///
    /// # Errors
    /// ENOENT if its directory is not there, EINVAL for a path with a zero byte.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
        let file = open(&path)?;
        Ok(Self { path, file })
    }

    /// Opens the path anew; the old file is let go only when that has worked.
    pub fn reopen(&mut self) -> rustix::io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    openat(CWD, path.as_c_str(), flags, Mode::from_raw_mode(0o640))
}

impl Sink for Option<LogFile> {
    fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<usize> {
        match self {
            Some(log) => rustix::io::write(&log.file, bytes),
            // Nobody wants to read it.
            None => Ok(bytes.len()),
        }
    }
}
