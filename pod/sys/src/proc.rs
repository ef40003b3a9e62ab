//! What /proc says about processes, and the identity that outlives a reused pid.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::error::{CallError, Result};
use crate::pidfd;

/// A process of one boot: a pid is reused, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// As our pid namespace numbers it.
    pub pid: i32,
    /// Clock ticks since boot (proc(5), stat field 22).
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)? })
    }

    /// See [`open_identified`].
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        open_identified(self.pid, self.start_time)
    }
}

/// When the process started, in clock ticks since boot.
///
/// # Errors
/// ENOENT or ESRCH if there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read(&path).map_err(|e| CallError::new(format!("read(\"{path}\")"), e))?;
    start_time_in(&stat).ok_or_else(|| {
        CallError::new(format!("parse {path}"), io::Error::new(io::ErrorKind::InvalidData, "no start time"))
    })
}

fn start_time_in(stat: &[u8]) -> Option<u64> {
    field_in(stat, 22)
}

/// A field from 3 on. Field 2 is the command's name in parentheses, which may itself hold spaces, parentheses and
/// newlines: what follows the last `)` is fields 3 and on.
fn field_in(stat: &[u8], field: usize) -> Option<u64> {
    let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

/// Opens the process of this pid if it is the one that started then. `None`: that one is gone. The process may
/// have ended without having been reaped: poll the pidfd.
pub fn open_identified(pid: i32, start_time: u64) -> Result<Option<OwnedFd>> {
    // The descriptor first: had the pid changed hands before, the start time read after it would differ.
    let fd = match pidfd::open(pid) {
        Ok(fd) => fd,
        Err(e) if e.is(Errno::SRCH) || e.is(Errno::INVAL) || e.is(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    match self::start_time(pid) {
        Ok(now) => Ok((now == start_time).then_some(fd)),
        Err(e) if e.is(Errno::SRCH) || e.is(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens the process of this pid if it is a child of `parent`, which is how a number that the parent told of is known to
/// mean that child still. `None`: it has been reaped.
pub fn open_child(pid: i32, parent: i32) -> Result<Option<OwnedFd>> {
    const FIELD: usize = 4;
    // The descriptor first, as in open_identified.
    let fd = match pidfd::open(pid) {
        Ok(fd) => fd,
        Err(e) if e.is(Errno::SRCH) || e.is(Errno::INVAL) || e.is(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let path = format!("/proc/{pid}/stat");
    match fs::read(&path) {
        Ok(stat) => Ok((field_in(&stat, FIELD) == u64::try_from(parent).ok()).then_some(fd)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(None),
        Err(e) => Err(CallError::new(format!("read(\"{path}\")"), e)),
    }
}

/// The kernel's id of this boot: pids, start times and everything under /run belong to one.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(PATH).map_err(|e| CallError::new(format!("read(\"{PATH}\")"), e))?;
    Ok(id.trim_end().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_name_of_a_command_hides_nothing() {
        let line = |name: &str| {
            format!("7 ({name}) S 1 7 7 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 1 0 4711 2383872 257 184 1 1")
        };
        for name in
            ["cat", "", ") S 1 2 3", "a b\nc", "((", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"]
        {
            assert_eq!(start_time_in(line(name).as_bytes()), Some(4711), "{name:?}");
        }
        for bad in ["", "7", "7 (cat", "7 (cat)", "7 (cat) S 1 7 7 0"] {
            assert_eq!(start_time_in(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_found_by_both_its_numbers() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let fd = process.open().unwrap().unwrap();
        assert_eq!(pidfd::pid_of(&fd).unwrap(), Some(process.pid));
        assert!(open_identified(process.pid, process.start_time + 1).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
        assert!(open_identified(-1, 0).unwrap().is_none());
    }

    #[test]
    fn a_child_is_known_by_its_parent() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let fd = open_child(pid, own).unwrap().unwrap();
        assert_eq!(pidfd::pid_of(&fd).unwrap(), Some(pid));
        assert!(open_child(pid, 1).unwrap().is_none());
        assert!(open_child(own, own).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(open_child(pid, own).unwrap().is_none());
    }

    #[test]
    fn start_times_grow_and_boots_have_names() {
        assert!(start_time(1).unwrap() <= start_time(i32::try_from(std::process::id()).unwrap()).unwrap());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
