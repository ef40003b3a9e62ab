//! Processes by descriptor: a pid can be given to somebody else, a pidfd cannot.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::error::{CallError, Result};
use crate::socket::wait_readable;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2) with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The code, or 128 + the signal, as a shell says it.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Opens the process that has this pid now. Who found the number somewhere wants
/// [`crate::proc::open_identified`] instead.
///
/// # Errors
/// ESRCH if there is none, EINVAL or ENOENT if the number is a thread's.
pub fn open(pid: i32) -> Result<OwnedFd> {
    number(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| CallError::new(format!("pidfd_open({pid})"), e))
}

/// from_raw takes no negative number.
fn number(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}

/// Sends a signal.
///
/// # Errors
/// ESRCH if the process has been reaped, EINVAL if the kernel knows no such signal.
pub fn signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    // Not by rustix or nix, which know no real-time signals: STOPSIGNAL SIGRTMIN+3 is what systemd wants.
    let fd = pidfd.as_fd().as_raw_fd();
    let (info, flags): (*const libc::siginfo_t, libc::c_uint) = (std::ptr::null(), 0);
    // SAFETY: the descriptor is open for the time of the call; a null siginfo is allowed (pidfd_send_signal(2)).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, flags) };
    if result == 0 {
        return Ok(());
    }
    Err(CallError::new(format!("pidfd_send_signal(fd {fd}, {signal})"), io::Error::last_os_error()))
}

/// Sends SIGKILL; a process that is gone already is success.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    match signal(pidfd, libc::SIGKILL) {
        Err(e) if e.is(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Waits until the process has ended; also for one that is no child of ours. Does not reap. `false`: not within
/// `limit`.
pub fn wait_exit(pidfd: impl AsFd, limit: Duration) -> Result<bool> {
    wait_readable(pidfd, limit)
}

/// Reaps a child that has ended; never waits. `None`: it still runs.
///
/// # Errors
/// ECHILD if it is no child of ours or has been reaped.
pub fn reap(pidfd: impl AsFd) -> Result<Option<Exit>> {
    let fd = pidfd.as_fd();
    reap_by(WaitId::PidFd(fd)).map_err(|e| CallError::new(format!("waitid(pidfd {})", fd.as_raw_fd()), e))
}

/// The same for a child that is known by its number alone, which stays its own until it is reaped.
///
/// # Errors
/// As for [`reap`].
pub fn reap_child(pid: i32) -> Result<Option<Exit>> {
    let found = number(pid).ok_or(Errno::CHILD).and_then(|pid| reap_by(WaitId::Pid(pid)));
    found.map_err(|e| CallError::new(format!("waitid({pid})"), e))
}

fn reap_by(child: WaitId<'_>) -> rustix::io::Result<Option<Exit>> {
    let status = waitid(child, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }))
}

/// The process's pid, as the pid namespace of our /proc numbers it. `None`: it has been reaped, or has no number
/// there.
pub fn pid_of(pidfd: impl AsFd) -> Result<Option<i32>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(&path).map_err(|e| CallError::new(format!("read(\"{path}\")"), e))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    let pid: i32 = pid.ok_or_else(|| CallError::new(format!("find Pid: in {path}"), Errno::BADF))?;
    Ok((pid > 0).then_some(pid))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const LIMIT: Duration = Duration::from_secs(10);

    fn cat() -> (std::process::Child, OwnedFd) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let fd = open(i32::try_from(child.id()).unwrap()).unwrap();
        (child, fd)
    }

    #[test]
    fn follows_a_child_to_its_end() {
        let (mut child, fd) = cat();
        assert_eq!(pid_of(&fd).unwrap(), i32::try_from(child.id()).ok());
        assert!(!wait_exit(&fd, Duration::ZERO).unwrap());
        assert_eq!(reap(&fd).unwrap(), None);
        drop(child.stdin.take());
        assert!(wait_exit(&fd, LIMIT).unwrap());
        assert_eq!(reap(&fd).unwrap(), Some(Exit::Code(0)));
        assert!(reap(&fd).unwrap_err().is(Errno::CHILD));
        assert_eq!(pid_of(&fd).unwrap(), None);
        kill(&fd).unwrap();
        assert!(signal(&fd, 15).unwrap_err().is(Errno::SRCH));
    }

    #[test]
    fn a_child_is_reaped_by_its_number_too() {
        let (mut child, fd) = cat();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(reap_child(pid).unwrap(), None);
        drop(child.stdin.take());
        assert!(wait_exit(&fd, LIMIT).unwrap());
        assert_eq!(reap_child(pid).unwrap(), Some(Exit::Code(0)));
        for gone in [pid, 0, -1] {
            assert!(reap_child(gone).unwrap_err().is(Errno::CHILD));
        }
    }

    #[test]
    fn a_signal_is_its_exit() {
        let (_child, fd) = cat();
        signal(&fd, 0).unwrap();
        assert!(signal(&fd, 65).unwrap_err().is(Errno::INVAL));
        let rtmin_plus_3 = 37;
        signal(&fd, rtmin_plus_3).unwrap();
        assert!(wait_exit(&fd, LIMIT).unwrap());
        let exit = reap(&fd).unwrap().unwrap();
        assert_eq!((exit, exit.shell_code()), (Exit::Signal(rtmin_plus_3), 165));
    }

    #[test]
    fn what_is_no_process_is_refused() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert!(open(pid).unwrap_err().is(Errno::SRCH), "{pid}");
        }
        assert!(pid_of(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
