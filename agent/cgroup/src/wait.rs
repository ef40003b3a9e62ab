//! Waiting for a group to be empty, without asking again and again.
//!
//! v2 tells by `cgroup.events` (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification"), which poll(2)
//! knows as POLLPRI. v1 has nothing like it: there the processes are waited for by their pidfds, which are readable after
//! the kernel has taken them out of their groups (do_exit: cgroup_exit comes before exit_notify).

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

use crate::{Error, files::GroupDir, parse};

const EVENTS: &str = "cgroup.events";
/// So many descriptors at once; more processes than these are waited for in turns.
pub(crate) const MAX_AT_ONCE: usize = 256;

/// Waits until nothing lives in the v2 group and those below; a group that is gone is empty. `false`: not until
/// `deadline`.
pub(crate) fn until_empty(dir: &GroupDir, deadline: Instant) -> Result<bool, Error> {
    let events = match dir.open_file(EVENTS, OFlags::RDONLY) {
        Ok(events) => events,
        Err(error) if error.is_gone() => return Ok(true),
        Err(error) => return Err(error),
    };
    let failed = |errno| Error::io("wait for", dir.path.join(EVENTS), errno);
    loop {
        // What changes between this and the poll makes the poll return at once.
        match is_populated(&events) {
            Ok(true) => {}
            Ok(false) | Err(Errno::NODEV) => return Ok(true),
            Err(errno) => return Err(failed(errno)),
        }
        let mut watched = [PollFd::new(&events, PollFlags::PRI)];
        if !poll_until(&mut watched, deadline).map_err(failed)? {
            return Ok(false);
        }
    }
}

fn is_populated(events: &OwnedFd) -> rustix::io::Result<bool> {
    let mut text = [0; 256];
    let length = loop {
        match rustix::io::pread(events, &mut text, 0) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let [populated] = parse::flat(&String::from_utf8_lossy(&text[..length]), ["populated"]);
    Ok(populated != 0)
}

/// Waits until all these processes have ended, or for `limit`.
pub(crate) fn until_ended(processes: &[OwnedFd], limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    for process in processes {
        if !has_ended(process, deadline.saturating_duration_since(Instant::now()))? {
            break;
        }
    }
    Ok(())
}

/// Whether the process of a pidfd ends within `limit`.
pub(crate) fn has_ended(process: impl AsFd, limit: Duration) -> Result<bool, Error> {
    holdfast_sys::pidfd::wait_exit(process, limit)
        .map_err(|error| Error::io("wait for a process by its", "pidfd", error))
}

fn poll_until(watched: &mut [PollFd<'_>], deadline: Instant) -> rustix::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(watched, Some(&limit)) {
            Err(Errno::INTR) => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}
