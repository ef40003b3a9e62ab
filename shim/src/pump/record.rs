//! The exit record on disk.
//!
//! Its room is taken before the container starts, so that a full disk cannot lose how it ended. It is written twice: at
//! once when the exit is known, since the shim may be killed while the log is still being drained, and again when all is
//! done. Nothing in here allocates but [`encode`]: the pump writes, because a disk may make it wait.

use std::os::fd::{AsFd, OwnedFd};

use holdfast_pod::protocol::{EXIT_RECORD_NAME, ExitRecord};
use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::{Errno, pwrite};

/// Bytes of a record, and of the room that is taken for it. A block of every usual file system.
pub const ROOM: usize = 4096;
/// Its name until there is something in it.
pub const RESERVED_NAME: &str = ".exit.json.new";

/// The room for an exit record.
#[derive(Debug)]
pub struct RecordFile {
    dir: OwnedFd,
    file: OwnedFd,
    named: bool,
}

impl RecordFile {
    /// From the container's state directory and what [`reserve`] has made in it.
    pub fn new(dir: OwnedFd, file: OwnedFd) -> Self {
        Self { dir, file, named: false }
    }

    /// Writes what [`encode`] has made, over what was there. The name stands for a whole record or for none: the first one
    /// gets its name when it is written, and a later one, no shorter and no longer, is one write within a page, which a
    /// signal does not cut. Without fsync: it need not outlive the boot.
    pub fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<()> {
        let mut done = 0;
        while let Some(rest @ [_, ..]) = bytes.get(done..) {
            match pwrite(&self.file, rest, done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        if !self.named {
            renameat(&self.dir, RESERVED_NAME, &self.dir, EXIT_RECORD_NAME)?;
            self.named = true;
        }
        Ok(())
    }
}

/// Takes the room for a record in the container's state directory.
///
/// # Errors
/// ENOSPC, EDQUOT.
pub fn reserve(dir: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, RESERVED_NAME, flags, Mode::from_raw_mode(0o600))?;
    // Written, and not fallocate(2), which not every file system has.
    match pwrite(&file, &[b' '; ROOM], 0)? {
        ROOM => Ok(file),
        _ => Err(Errno::NOSPC),
    }
}

/// A record as JSON, filled up to [`ROOM`] with blanks. A message that is too long for it loses its end.
pub fn encode(record: &ExitRecord) -> Vec<u8> {
    let mut record = record.clone();
    loop {
        // Numbers and strings: this does not fail.
        let mut bytes = serde_json::to_vec(&record).unwrap_or_default();
        if bytes.len() < ROOM {
            bytes.resize(ROOM - 1, b' ');
            bytes.push(b'\n');
            return bytes;
        }
        let kept = record.message.chars().count() / 2;
        record.message = record.message.chars().take(kept).collect();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_record_appears_whole_and_is_then_rewritten_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let mut file = RecordFile::new(fd.try_clone().unwrap(), reserve(&fd).unwrap());
        assert_eq!(names(dir.path()), [RESERVED_NAME]);
        for exit_code in [1, 2] {
            file.write(&encode(&ExitRecord { exit_code, ..ExitRecord::default() })).unwrap();
            assert_eq!(names(dir.path()), [EXIT_RECORD_NAME]);
            let text = std::fs::read(dir.path().join(EXIT_RECORD_NAME)).unwrap();
            assert_eq!(text.len(), ROOM);
            assert_eq!(serde_json::from_slice::<ExitRecord>(&text).unwrap().exit_code, exit_code);
        }
    }

    #[test]
    fn however_long_its_message_a_record_has_its_room() {
        for (message, len) in [("x", 0), ("x", 3000), ("\u{1}", 5000), ("\u{1f980}", 100_000)] {
            let message = message.repeat(len);
            let record = ExitRecord { exit_code: 128, message: message.clone(), ..ExitRecord::default() };
            let bytes = encode(&record);
            assert_eq!(bytes.len(), ROOM);
            let read: ExitRecord = serde_json::from_slice(&bytes).unwrap();
            assert!(read.exit_code == 128 && message.starts_with(&read.message));
            assert_eq!(read.message.is_empty(), len == 0);
        }
    }
}
