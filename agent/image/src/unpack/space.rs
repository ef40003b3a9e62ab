//! Room on the disk, looked at while data is written.

use std::os::fd::BorrowedFd;

use rustix::fs;
use rustix::io::Errno;

use super::fault::Fault;

/// Looks after so many bytes.
const EVERY: u64 = 64 << 20;

/// Stops an archive before it fills the disk that the whole node lives on.
pub(crate) struct Space<'a> {
    disk: BorrowedFd<'a>,
    reserve: u64,
    since: u64,
}

impl<'a> Space<'a> {
    /// For writes to the file system of `disk`, of which `reserve` bytes have to stay free.
    pub(crate) fn new(disk: BorrowedFd<'a>, reserve: u64) -> Self {
        Self { disk, reserve, since: EVERY }
    }

    /// So many bytes are about to be written.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        self.since += bytes;
        if self.since < EVERY {
            return Ok(());
        }
        self.since = 0;
        let disk = fs::fstatvfs(self.disk).map_err(|errno| Fault::call("statvfs", b"", errno))?;
        let least = self.reserve + EVERY;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < least {
            let operation =
                format!("write: less than {} MiB are free on the disk of the image store", least >> 20);
            return Err(Fault::Io { operation, source: Errno::NOSPC.into() });
        }
        Ok(())
    }
}
