//! clone3(2) as a fork with descriptors: straight into a cgroup, with a pidfd, with new namespaces.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{CallError, Result};
use crate::failpoint;

/// linux/sched.h (libc's constant is an int, which it does not fit).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child process. Dropping it neither kills nor reaps.
#[derive(Debug)]
pub struct Child {
    /// Its number, as our pid namespace has it.
    pub pid: i32,
    /// The process itself.
    pub pidfd: OwnedFd,
}

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent(Child),
}

/// Where and how the child is born.
#[derive(Debug, Clone, Copy, Default)]
pub struct Birth<'a> {
    /// CLONE_NEW... flags.
    pub namespaces: u64,
    /// Make it our sibling (CLONE_PARENT): our parent reaps it.
    pub sibling: bool,
    /// cgroup v2 directory that it is born in (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks. SIGCHLD at the child's end goes to whoever is its parent.
///
/// The child has a copy of this process's memory, without its other threads: what those held locked stays locked
/// for ever. Call it only where no other thread allocates, and let the child end by
/// [`crate::process::exit_now`] or execve(2). The C library is not told of the fork: in the child its set*id,
/// `raise` and `abort` are off limits (they look at threads that are not there).
///
/// # Errors
/// EBUSY if the cgroup has controllers for its children, EACCES if it may not be joined, EAGAIN at a limit of
/// processes, EINVAL for namespaces that do not go together.
pub fn fork(birth: Birth<'_>) -> Result<Forked> {
    failpoint::call("sys.clone3")?;
    let mut pidfd: libc::c_int = -1;
    let mut flags = birth.namespaces | libc::CLONE_PIDFD as u64;
    if birth.sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    if birth.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    // SAFETY: clone_args is plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling's signal is the one that our own parent asked for; the kernel refuses another.
    args.exit_signal = if birth.sibling { 0 } else { libc::SIGCHLD as u64 };
    args.cgroup = birth.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: no CLONE_VM and no stack: a plain fork on a copy of our memory. `args` has the size that is passed and
    // outlives the call, as does `pidfd`, which it points to.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(CallError::new(format!("clone3(flags {flags:#x})"), std::io::Error::last_os_error())),
        0 => Ok(Forked::Child),
        _ => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Child { pid: pid as i32, pidfd }))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pidfd::{self, Exit};
    use crate::process::exit_now;
    use std::time::Duration;

    #[test]
    fn a_child_ends_and_is_reaped_by_its_pidfd() {
        let child = match fork(Birth::default()).unwrap() {
            Forked::Child => exit_now(7),
            Forked::Parent(child) => child,
        };
        assert!(child.pid > 1);
        assert!(pidfd::wait_exit(&child.pidfd, Duration::from_secs(10)).unwrap());
        assert_eq!(pidfd::reap(&child.pidfd).unwrap(), Some(Exit::Code(7)));
    }

    #[test]
    fn flags_that_do_not_go_together_are_named() {
        let flags = (libc::CLONE_NEWNS | libc::CLONE_FS) as u64;
        let error = fork(Birth { namespaces: flags, ..Birth::default() }).map(|_| ()).unwrap_err();
        assert!(error.is(rustix::io::Errno::INVAL), "{error:?}");
        assert!(error.to_string().starts_with("clone3(flags 0x"));
    }
}
