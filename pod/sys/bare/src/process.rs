//! The process itself: cloning, namespaces, ids, privileges, sleep.

use crate::Fd;
use crate::arch::{nr, syscall};
use crate::call::{Errno, Result, check, done};

/// Clone flags of namespaces.
pub mod flags {
    /// Mount namespace.
    pub const NEWNS: u64 = 0x0002_0000;
    /// UTS namespace.
    pub const NEWUTS: u64 = 0x0400_0000;
    /// IPC namespace.
    pub const NEWIPC: u64 = 0x0800_0000;
    /// User namespace.
    pub const NEWUSER: u64 = 0x1000_0000;
    /// PID namespace.
    pub const NEWPID: u64 = 0x2000_0000;
    /// Network namespace.
    pub const NEWNET: u64 = 0x4000_0000;
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no memory involved.
        unsafe { syscall(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Which side of a clone this is.
pub enum Side {
    /// The one that called.
    Parent {
        /// The new process's pid.
        pid: i32,
        /// And descriptor.
        pidfd: Fd,
    },
    /// The new one.
    Child,
}

/// Clones the process into new namespaces. The new process is a sibling of this one: its parent is our parent.
pub fn clone_sibling(namespaces: u64) -> Result<Side> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_PARENT: u64 = 0x8000;
    let mut pidfd = -1_i32;
    // flags, pidfd, child_tid, parent_tid, exit_signal (ours, as CLONE_PARENT wants it), stack, stack_size, tls
    let request: [u64; 8] =
        [namespaces | CLONE_PIDFD | CLONE_PARENT, &raw mut pidfd as u64, 0, 0, 0, 0, 0, 0];
    let args = [request.as_ptr() as usize, size_of_val(&request), 0, 0, 0, 0];
    // SAFETY: struct clone_args of its first version. Memory is copied, not shared, and the process has one thread.
    match check(unsafe { syscall(nr::CLONE3, args) })? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent { pid: pid as i32, pidfd: Fd::from_kernel(pidfd) }),
    }
}

/// Enters namespaces of the process that the pidfd names.
pub fn enter_namespaces(pidfd: &Fd, namespaces: u64) -> Result<()> {
    // SAFETY: no memory involved.
    unsafe { done(nr::SETNS, [pidfd.arg(), namespaces as usize, 0, 0, 0, 0]) }
}

/// sethostname(2).
pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: the bytes live for the time of the call.
    unsafe { done(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }
}

/// setdomainname(2).
pub fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: the bytes live for the time of the call.
    unsafe { done(nr::SETDOMAINNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) }
}

/// Gives up all supplemental groups.
pub fn clear_groups() -> Result<()> {
    // SAFETY: an empty list is not read.
    unsafe { done(nr::SETGROUPS, [0; 6]) }
}

/// Sets the three user ids and the three group ids.
pub fn set_ids(id: u32) -> Result<()> {
    let id = id as usize;
    // SAFETY: no memory involved.
    unsafe { done(nr::SETRESGID, [id, id, id, 0, 0, 0]) }?;
    // SAFETY: likewise.
    unsafe { done(nr::SETRESUID, [id, id, id, 0, 0, 0]) }
}

/// No new privileges by execve, for ever.
pub fn no_new_privileges() -> Result<()> {
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Nobody without the capability to trace may look into the process; its files under /proc belong to root.
pub fn not_dumpable() -> Result<()> {
    const PR_SET_DUMPABLE: usize = 4;
    prctl(PR_SET_DUMPABLE, 0, 0)
}

/// Empties the bounding set, which takes CAP_SETPCAP.
pub fn drop_bounding_set() -> Result<()> {
    const PR_CAPBSET_DROP: usize = 24;
    for capability in 0..64 {
        match prctl(PR_CAPBSET_DROP, capability, 0) {
            // The first that this kernel does not know.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// Empties the ambient, inheritable, permitted and effective sets.
pub fn drop_capabilities() -> Result<()> {
    const PR_CAP_AMBIENT: usize = 47;
    const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;
    const VERSION_3: u32 = 0x2008_0522;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    let header: [u32; 2] = [VERSION_3, 0];
    let sets = [0_u32; 6];
    // SAFETY: header and two halves of three sets, as capset(2) wants them.
    unsafe { done(nr::CAPSET, [header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0, 0, 0]) }
}

/// Lets the kernel reap children: a process that ends, also one that was given to us as an orphan, leaves no zombie.
pub fn ignore_children() -> Result<()> {
    const SIGCHLD: usize = 17;
    const SIG_IGN: u64 = 1;
    // handler, flags, restorer, mask
    let action: [u64; 4] = [SIG_IGN, 0, 0, 0];
    let args = [SIGCHLD, action.as_ptr() as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: the kernel's struct sigaction.
    unsafe { done(nr::RT_SIGACTION, args) }
}

/// Sleeps until a signal ends the process.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no descriptors, no time-out, no mask.
        unsafe { syscall(nr::PPOLL, [0; 6]) };
    }
}

fn prctl(option: usize, first: usize, second: usize) -> Result<()> {
    // SAFETY: the options used here take numbers only; unused arguments have to be 0.
    unsafe { done(nr::PRCTL, [option, first, second, 0, 0, 0]) }
}
