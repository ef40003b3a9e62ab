//! Joining the pod's namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_sys::ns;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::DumpableBehavior;
use rustix::thread::{Gid, Uid};

use super::Plan;
use super::launch::{Launch, has_user_namespace};
use crate::fault::{OrFail, Result};

/// The pod's user namespace, which id-maps what the container gets.
pub fn user_namespace(holder: BorrowedFd<'_>, launch: &Launch) -> Result<Option<OwnedFd>> {
    if !has_user_namespace(launch) {
        return Ok(None);
    }
    ns::user_namespace_of(holder).or_fail("find the pod's user namespace").map(Some)
}

/// Joins what the launch says.
pub fn pod(plan: &Plan<'_>, launch: &Launch) -> Result<()> {
    // Before anything of the pod can see us: no process of it may trace us, whatever its capabilities in there.
    hide_memory()?;
    let mut with_holder = launch.join;
    if let Some(target) = plan.pid_target {
        // As the host's root: from within the pod's user namespace a target that may not be traced is out of reach.
        ns::join(target, ns::NEWPID).or_fail("join the target container's pid namespace: is it running?")?;
        with_holder &= !ns::NEWPID;
    }
    // In one call, for the same reason.
    if with_holder != 0 {
        ns::join(plan.holder, with_holder).or_fail("join the pod's namespaces: is its holder alive?")?;
    }
    if has_user_namespace(launch) {
        become_root_inside()?;
    }
    Ok(())
}

/// Joins what createContainer hooks have in common with the container: everything but its mounts, which are brought
/// here, and a pid namespace that others are in.
pub fn beside(holder: BorrowedFd<'_>, init: &OwnedFd, launch: &Launch) -> Result<()> {
    // As the host's root: from within the pod's user namespace the container's init is out of reach.
    let own = launch.own & !ns::NEWNS;
    if own != 0 {
        ns::join(init, own).or_fail("join the container's namespaces")?;
    }
    let shared = launch.join & !(ns::NEWNS | ns::NEWPID);
    if shared != 0 {
        ns::join(holder, shared).or_fail("join the pod's namespaces: is its holder alive?")?;
    }
    if has_user_namespace(launch) {
        become_root_inside()?;
    }
    Ok(())
}

/// Does something in the mount namespace of a process, and comes back.
pub fn in_mounts_of<T>(process: impl AsFd, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = openat(CWD, "/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_fail("open our own mount namespace")?;
    ns::join(process, ns::NEWNS).or_fail("join the mount namespace of another process: is it alive?")?;
    let done = work();
    ns::join(&own, ns::NEWNS).or_fail("go back to our own mount namespace")?;
    done
}

/// Makes the process untraceable and its /proc files root's.
pub fn hide_memory() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fail("become undumpable")
}

/// The host's root has no number in the pod's user namespace: what we make there needs an owner.
pub fn become_root_inside() -> Result<()> {
    const STAGE: &str = "become root of the pod's user namespace";
    rustix::thread::set_thread_groups(&[]).or_fail(STAGE)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).or_fail(STAGE)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).or_fail(STAGE)
}
