//! What a container with hooks has beside others: its root in a mount namespace that hooks know their way in.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use holdfast_sys::mount;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::one::{Place, run_all};
use super::{Moment, State, of, runner};
use crate::fault::{OrFail, Result};
use crate::stage::Plan;
use crate::stage::bundle::{self, config};
use crate::stage::launch::Launch;
use crate::stage::unseen::Unseen;

/// What stage 1 takes along.
#[derive(Debug)]
pub struct Hooked {
    /// Where the root is, and where stage 2 hangs its own mount of it.
    pub rootfs: PathBuf,
    /// The pod's /dev/shm: the holder's mounts are not what stage 2 has a copy of.
    pub shm: Option<OwnedFd>,
    /// The mount namespace.
    mounts: OwnedFd,
}

impl Hooked {
    /// All descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [self.mounts.as_raw_fd()].into_iter().chain(self.shm.iter().map(AsRawFd::as_raw_fd))
    }
}

/// Stage 1, on the host: mounts the root at its place in the bundle and writes the bundle's config.json.
pub fn prepare(plan: &Plan<'_>, launch: &Launch, root: &OwnedFd) -> Result<Hooked> {
    const STAGE: &str = "make the bundle";
    let shm = if launch.pod_shm { Some(bundle::pod_shm(plan.holder)?) } else { None };
    let bundle = plan.create.bundle.as_path();
    bundle::open_to_its_root(bundle, launch)?;
    let unseen = Unseen::begin(bundle)?;
    let rootfs = unseen.attach(root, "rootfs")?;
    unseen.end()?;
    let mounts = openat(CWD, "/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_fail("open our own mount namespace")?;
    let pids = bundle::Pids::of(plan.holder, plan.pid_target)?;
    config::write_for_hooks(launch, bundle, &rootfs, &pids).or_fail(STAGE)?;
    Ok(Hooked { rootfs, shm, mounts })
}

/// A mount of the root for stage 2: the one that is attached in stage 1's namespace is locked in one that a user
/// namespace owns, and cannot become the root there.
pub fn own_mount(root: &OwnedFd) -> Result<OwnedFd> {
    mount::copy_tree(root.as_fd(), Path::new(""), false).or_fail("copy the root's mount")
}

/// Stage 2, before the root is changed.
pub fn before_pivot(plan: &Plan<'_>, launch: &Launch, hooked: &Hooked, runner: BorrowedFd<'_>) -> Result<()> {
    runner::ask(runner, &hooked.mounts)?;
    run(plan, launch, Moment::CreateContainer, &plan.create.bundle)
}

/// Stage 2, when the gate is open.
pub fn before_command(plan: &Plan<'_>, launch: &Launch) -> Result<()> {
    run(plan, launch, Moment::StartContainer, Path::new("."))
}

fn run(plan: &Plan<'_>, launch: &Launch, moment: Moment, directory: &Path) -> Result<()> {
    let state = State::at(moment, &launch.spec, &plan.create.id, &plan.create.bundle);
    let state = state.with_pid(std::process::id().cast_signed());
    run_all(of(&launch.spec, moment), moment, &state, Place { directory, peer: None })
}
