//! The files that the shim writes on the host: the log, and the room for the exit record. A stage opens them, because a
//! disk may make it wait, and the shim's control loop never waits.

use std::os::fd::{AsFd, BorrowedFd};

use holdfast_pod::protocol::{Create, FaultKind};
use rustix::io::Errno;

use crate::fault::{OrFail, Result, failure, internal};
use crate::link::{self, Report};
use crate::pump::file::{LogFile, advice};
use crate::pump::record;

/// Opens them and hands them to the shim.
pub fn open(create: &Create, state_dir: BorrowedFd<'_>, link: BorrowedFd<'_>) -> Result<()> {
    let record = record::reserve(state_dir).or_fail("take the room for the exit record")?;
    let log = open_log(create)?;
    let log = log.map(LogFile::into_file);
    let fds: Vec<_> = [Some(record.as_fd()), log.as_ref().map(AsFd::as_fd)].into_iter().flatten().collect();
    link::report_with(link, &Report::Files, &fds).map_err(|e| internal("report to the shim", e.to_string()))
}

fn open_log(create: &Create) -> Result<Option<LogFile>> {
    let Some(path) = &create.log_path else { return Ok(None) };
    let refused = |errno: Errno| {
        let stage = format!("open log file {}", path.display());
        let text = std::io::Error::from(errno);
        match advice(errno) {
            Some(advice) => {
                failure(FaultKind::Invalid, &stage, errno.raw_os_error(), format!("{text}: {advice}"))
            }
            None => failure(FaultKind::Internal, &stage, errno.raw_os_error(), text.to_string()),
        }
    };
    LogFile::open(path).map(Some).map_err(refused)
}

/// Removes what [`open`] has made, but for a log that was written to: the container never was.
pub fn remove(create: &Create, state_dir: BorrowedFd<'_>) {
    let _ = rustix::fs::unlinkat(state_dir, record::RESERVED_NAME, rustix::fs::AtFlags::empty());
    if let Some(path) = &create.log_path
        && std::fs::symlink_metadata(path).is_ok_and(|log| log.is_file() && log.len() == 0)
    {
        let _ = std::fs::remove_file(path);
    }
}
