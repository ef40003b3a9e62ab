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
    Stat::of(pid).map(|stat| stat.start_time)
}

/// Fields of a process in /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State, such as `R`, or `Z` for a zombie.
    pub state: char,
    /// Its parent's pid; 0 if that is outside of our pid namespace.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Reads it.
    ///
    /// # Errors
    /// ENOENT or ESRCH if there is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read(&path).map_err(|e| CallError::new(format!("read(\"{path}\")"), e))?;
        Self::parse(&stat).ok_or_else(|| {
            let problem = io::Error::new(io::ErrorKind::InvalidData, "a field is missing");
            CallError::new(format!("parse {path}"), problem)
        })
    }

    /// Field 2 is the command's name in parentheses, which may itself hold spaces, parentheses and newlines: what follows
    /// the last `)` is fields 3 and on.
    fn parse(stat: &[u8]) -> Option<Self> {
        let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
        let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(6 - 4 - 1)?.parse().ok()?;
        let start_time = fields.nth(22 - 6 - 1)?.parse().ok()?;
        Some(Self { state, parent, session, start_time })
    }
}

/// Opens the process of this pid if it is the one that started then. `None`: that one is gone. The process may
/// have ended without having been reaped: poll the pidfd.
pub fn open_identified(pid: i32, start_time: u64) -> Result<Option<OwnedFd>> {
    open_if(pid, |stat| stat.start_time == start_time)
}

/// Opens the process of this pid if it is a child of `parent`, which is how a number that the parent told of is known to
/// mean that child still. `None`: it has been reaped.
pub fn open_child(pid: i32, parent: i32) -> Result<Option<OwnedFd>> {
    open_if(pid, |stat| stat.parent == parent)
}

fn open_if(pid: i32, is_it: impl Fn(Stat) -> bool) -> Result<Option<OwnedFd>> {
    let is_gone = |e: &CallError| e.is(Errno::SRCH) || e.is(Errno::NOENT);
    // The descriptor first: had the pid changed hands before, what is read after it would differ.
    let fd = match pidfd::open(pid) {
        Ok(fd) => fd,
        Err(e) if is_gone(&e) || e.is(Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e),
    };
    match Stat::of(pid) {
        Ok(stat) => Ok(is_it(stat).then_some(fd)),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(e),
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
            format!("7 ({name}) S 5 7 12 0 -1 4194304 95 0 0 0 0 0 0 0 20 0 1 0 4711 2383872 257 184 1 1")
        };
        for name in
            ["cat", "", ") S 1 2 3", "a b\nc", "((", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"]
        {
            let expected = Stat { state: 'S', parent: 5, session: 12, start_time: 4711 };
            assert_eq!(Stat::parse(line(name).as_bytes()), Some(expected), "{name:?}");
        }
        for bad in ["", "7", "7 (cat", "7 (cat)", "7 (cat) S 1 7 7 0"] {
            assert_eq!(Stat::parse(bad.as_bytes()), None, "{bad:?}");
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
