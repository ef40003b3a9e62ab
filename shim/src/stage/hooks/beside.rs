//! createContainer hooks: programs of the host that run in the container's namespaces and see its root, with all that is
//! mounted in it, at `<bundle>/rootfs`.
//!
//! A child that stage 1 makes before it joins the pod, so that it is in the container's cgroup. It stays outside of a pid
//! namespace that others are in, where its mounts, the host's and the container's, could be looked into; the rest of
//! the container's namespaces it joins. When the hooks are through it makes the container's root its own and lets go of
//! the host's: that mount namespace then becomes the container's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_sys::clone::{Birth, Forked, fork};
use holdfast_sys::{mount, ns, process, socket};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Signal;

use super::inside::ROOTFS;
use super::one::{Place, run_all};
use super::runner::{self, pid_outside};
use super::{Moment, State, of};
use crate::fault::{OrFail, Result, internal};
use crate::link::{Report, report};
use crate::stage::launch::Launch;
use crate::stage::{Plan, join, root_of, rootfs};

const STAGE: &str = "run createContainer hooks";
/// The first process of a pid namespace, as that numbers it.
const INIT: i32 = 1;

/// Clones it, as a child of the shim, and returns what stage 2 asks it by.
pub fn spawn(plan: &Plan<'_>, launch: &Launch) -> Result<OwnedFd> {
    const STAGE: &str = "clone who runs createContainer hooks";
    let (ours, theirs) = socket::pair().or_fail(STAGE)?;
    match fork(Birth { sibling: true, ..Birth::default() }).or_fail(STAGE)? {
        Forked::Child => run(plan, launch, theirs.as_fd()),
        Forked::Parent(child) => {
            report(plan.link, &Report::HookRunner, Some(child.pidfd.as_fd()))
                .map_err(|e| internal("report to the shim", e.to_string()))?;
            Ok(ours)
        }
    }
}

/// Stage 2's side. What comes back is the mount namespace in which a copy of its root, with all that is mounted in there,
/// has become the root.
pub fn ask(beside: &OwnedFd) -> Result<OwnedFd> {
    let namespace = runner::ask_for(STAGE, beside.as_fd())?;
    namespace.ok_or_else(|| internal(STAGE, "who runs them sent no mount namespace"))
}

fn run(plan: &Plan<'_>, launch: &Launch, peer: BorrowedFd<'_>) -> ! {
    let _ = process::close_all_but(&mut [0, 1, 2, plan.holder.as_raw_fd(), peer.as_raw_fd()]);
    runner::serve(STAGE, peer, |init| hooks(plan, launch, peer, &init).map(Some))
}

fn hooks(plan: &Plan<'_>, launch: &Launch, peer: BorrowedFd<'_>, init: &OwnedFd) -> Result<OwnedFd> {
    let has_own_pids = launch.own & ns::NEWPID != 0;
    let pid = if has_own_pids { INIT } else { pid_outside(STAGE, init)? };
    let tree = runner::copy_of_root(init, true)?;
    join::beside(plan.holder, init, launch)?;
    // Who changes its user loses it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // After the user namespace was joined: hooks may then mount in it.
    ns::unshare(ns::NEWNS).or_fail("copy the mount namespace")?;
    mount::make_all_private().or_fail(STAGE)?;
    let bundle = plan.create.bundle.as_path();
    attach(&tree, &bundle.join(ROOTFS))?;
    // Before the root is changed: /proc is the image's then.
    let namespace = openat(CWD, "/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_fail("open our own mount namespace")?;

    let state = State::at(Moment::CreateContainer, &launch.spec, &plan.create.id, bundle).with_pid(pid);
    let place = Place { directory: bundle, peer: Some(peer) };
    run_all(of(&launch.spec, Moment::CreateContainer), Moment::CreateContainer, &state, place)?;
    rootfs::enter(launch, root_of(&tree)?)?;
    Ok(namespace)
}

fn attach(tree: &OwnedFd, path: &Path) -> Result<()> {
    let stage = format!("attach {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(CWD, path, flags, Mode::empty()).or_fail(&stage)?;
    mount::attach(tree, place).or_fail(&stage)
}
