//! The log file.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, fstat, openat};
use rustix::io::Errno;

use super::records::Sink;

/// A log file and its path.
#[derive(Debug)]
pub struct LogFile {
    path: CString,
    file: OwnedFd,
}

impl LogFile {
    /// Opens it, and makes it with mode 0640. A disk may make this wait, a FIFO does not.
    ///
    /// # Errors
    /// ENOENT if its directory is not there, EINVAL for a path with a zero byte, ENXIO for what is neither a file nor a
    /// character device.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        let path = c_path(path)?;
        let file = open(&path)?;
        Ok(Self { path, file })
    }

    /// One that somebody else has opened.
    ///
    /// # Errors
    /// EINVAL for a path with a zero byte.
    pub fn opened(path: &Path, file: OwnedFd) -> rustix::io::Result<Self> {
        Ok(Self { path: c_path(path)?, file })
    }

    /// The open file.
    pub fn into_file(self) -> OwnedFd {
        self.file
    }

    /// Opens the path anew; the old file is let go only when that has worked.
    pub fn reopen(&mut self) -> rustix::io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }
}

/// Advice for whoever chose the path, if it is the path's fault.
pub fn advice(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Some("make the pod's log directory on the host first"),
        Errno::NXIO | Errno::ISDIR => {
            Some("a log has to be a file: remove what has its name (a FIFO, a socket, a directory)")
        }
        Errno::INVAL | Errno::LOOP | Errno::NAMETOOLONG => Some("choose another log path"),
        _ => None,
    }
}

fn c_path(path: &Path) -> rustix::io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

fn open(path: &CString) -> rustix::io::Result<OwnedFd> {
    // Without O_NONBLOCK a FIFO that nobody reads would be waited for. With it that is ENXIO, as for a socket.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOCTTY
        | OFlags::NONBLOCK;
    let file = openat(CWD, path.as_c_str(), flags, Mode::from_raw_mode(0o640))?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => {}
        _ => return Err(Errno::NXIO),
    }
    fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_log_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (fifo, read) = (path("fifo"), path("read"));
        for fifo in [&fifo, &read] {
            rustix::fs::mkfifoat(CWD, fifo, Mode::from_raw_mode(0o600)).unwrap();
        }
        let _reader = openat(CWD, &read, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        for (name, errno) in [
            ("fifo", Errno::NXIO),
            ("read", Errno::NXIO),
            ("socket", Errno::NXIO),
            ("directory", Errno::ISDIR),
            ("no/such/directory", Errno::NOENT),
            ("fifo/below", Errno::NOTDIR),
        ] {
            assert_eq!(LogFile::open(&path(name)).map(drop), Err(errno), "{name}");
            assert!(advice(errno).is_some());
        }
        for fine in [path("log"), path("log"), "/dev/null".into()] {
            let log = LogFile::open(&fine).unwrap().into_file();
            let flags = rustix::fs::fcntl_getfl(&log).unwrap();
            assert!(flags.contains(OFlags::APPEND) && !flags.contains(OFlags::NONBLOCK), "{flags:?}");
        }
        assert_eq!(advice(Errno::NOSPC), None);
    }
}
