//! Namespaces: joining those of a process, and leaving our own.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::error::{CallError, Result};
use crate::failpoint;
use crate::pidfd;

/// Namespace flags as they are numbered in messages.
pub use flags::*;
mod flags {
    /// Mount namespace.
    pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
    /// cgroup namespace.
    pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// uts namespace.
    pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
    /// ipc namespace.
    pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
    /// User namespace.
    pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    /// pid namespace.
    pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
    /// Network namespace.
    pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
}

/// `PIDFD_GET_USER_NAMESPACE` of linux/pidfd.h, `_IO(0xFF, 9)` (Linux 6.11).
const PIDFD_GET_USER_NAMESPACE: libc::Ioctl = 0xFF09;

/// Joins those namespaces of the process, all of them or none (Linux 5.8). With NEWNS root and working directory become
/// the root of that mount namespace; with NEWPID only children to come are in it.
///
/// # Errors
/// ESRCH if the process is gone, EINVAL for a user namespace that is ours already or if we have threads.
pub fn join(process: impl AsFd, namespaces: u64) -> Result<()> {
    failpoint::call("sys.setns")?;
    let fd = process.as_fd();
    nix::sched::setns(fd, CloneFlags::from_bits_retain(namespaces as libc::c_int))
        .map_err(|e| CallError::new(format!("setns(pidfd {}, {namespaces:#x})", fd.as_raw_fd()), e))
}

/// Leaves our namespaces of those kinds for new ones.
pub fn unshare(namespaces: u64) -> Result<()> {
    failpoint::call("sys.unshare")?;
    nix::sched::unshare(CloneFlags::from_bits_retain(namespaces as libc::c_int))
        .map_err(|e| CallError::new(format!("unshare({namespaces:#x})"), e))
}

/// The user namespace of a process, as the descriptor that an id-mapped mount wants.
///
/// # Errors
/// ESRCH if the process is gone.
pub fn user_namespace_of(process: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: this ioctl takes no argument and touches no memory of ours.
    let fd = unsafe { libc::ioctl(process.as_raw_fd(), PIDFD_GET_USER_NAMESPACE, 0) };
    if fd >= 0 {
        // SAFETY: the kernel has just made this descriptor (with O_CLOEXEC) for us.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    by_path(process)
}

/// The same on older kernels. The process is looked at again afterwards: had it ended, its number could have been
/// somebody else's when the path was opened.
fn by_path(process: BorrowedFd<'_>) -> Result<OwnedFd> {
    let gone = || CallError::new(format!("user namespace of pidfd {}", process.as_raw_fd()), Errno::SRCH);
    let pid = pidfd::pid_of(process)?.ok_or_else(gone)?;
    let path = format!("/proc/{pid}/ns/user");
    let fd = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CallError::new(format!("open(\"{path}\")"), e))?;
    pidfd::pid_of(process)?.ok_or_else(gone)?;
    Ok(fd)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn inode(fd: &OwnedFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn both_ways_find_the_same_user_namespace() {
        let me = pidfd::open(std::process::id() as i32).unwrap();
        let asked = user_namespace_of(me.as_fd()).unwrap();
        let opened = by_path(me.as_fd()).unwrap();
        assert_eq!(inode(&asked), inode(&opened));
    }

    #[test]
    fn a_namespace_that_cannot_be_joined_is_named() {
        let me = pidfd::open(std::process::id() as i32).unwrap();
        let error = join(&me, NEWUSER).unwrap_err();
        assert!(error.to_string().contains("0x10000000"), "{error}");
    }
}
