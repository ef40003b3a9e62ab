//! A container with hooks as its stages see it: the bundle that hooks read, and whom they ask to run them.
//!
//! Until the root is changed hooks are programs of the host with the host's mounts around them. Who can be seen in the
//! pod's pid namespace has none of these (a neighbour with SYS_PTRACE would read `/proc/PID/root` and `/proc/PID/fd`):
//! processes that stand outside copy the root that stage 2 has built, and run them.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_sys::mount;
use holdfast_sys::ns;
use holdfast_sys::path::Root;
use holdfast_sys::tty::Terminal;
use oci_spec::runtime::Mount;

use super::one::{Place, run_all};
use super::{Moment, State, beside, of, runner};
use crate::fault::{OrFail, Result, invalid};
use crate::stage::bundle::{self, config};
use crate::stage::launch::{Launch, mounts};
use crate::stage::options::Options;
use crate::stage::{Plan, console, rootfs};

/// Stage 1, on the host: makes the bundle that hooks read, and who runs createContainer hooks. Returns what stage 2 asks
/// the latter by.
pub fn prepare(plan: &Plan<'_>, launch: &Launch) -> Result<Option<OwnedFd>> {
    const STAGE: &str = "make the bundle";
    let bundle = plan.create.bundle.as_path();
    bundle::open_to_its_root(bundle, launch)?;
    let rootfs = bundle.join(ROOTFS);
    match fs::create_dir(&rootfs) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e).or_fail(STAGE),
        _ => {}
    }
    let pids = bundle::Pids::of(plan.holder, plan.pid_target)?;
    config::write_for_hooks(launch, bundle, &rootfs, &pids).or_fail(STAGE)?;
    if of(&launch.spec, Moment::CreateContainer).is_empty() {
        return Ok(None);
    }
    refuse_unbindable(mounts(launch))?;
    beside::spawn(plan, launch).map(Some)
}

/// createContainer hooks see copies of the container's mounts, and what is unbindable cannot be copied.
fn refuse_unbindable(mounts: &[Mount]) -> Result<()> {
    let is_unbindable = |mount: &&Mount| {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        matches!(options.propagation, Some((mount::Propagation::Unbindable, _)))
    };
    let Some(found) = mounts.iter().find(is_unbindable) else { return Ok(()) };
    let stage = format!("mount {}", found.destination().display());
    Err(invalid(&stage, "createContainer hooks could not see an unbindable mount: make it private"))
}

/// Path of the root filesystem for hooks, relative to the bundle.
pub const ROOTFS: &str = "rootfs";

/// Stage 2: lets those hooks run that come before the root is changed, and changes it. `beside` runs those of the
/// container's namespaces, `runner` those of the runtime's.
pub fn enter(
    launch: &Launch,
    runner: BorrowedFd<'_>,
    beside: Option<&OwnedFd>,
    root: Root,
    terminal: Option<&mut Terminal>,
) -> Result<()> {
    let moments = [Moment::Prestart, Moment::CreateRuntime];
    if moments.iter().any(|moment| !of(&launch.spec, *moment).is_empty()) {
        runner::ask(runner)?;
    }
    let Some(beside) = beside else { return rootfs::enter(launch, root) };
    // What those hooks mount is the container's: it lives on in the mount namespace that they had, which has nothing of
    // the host any more.
    let namespace = beside::ask(beside)?;
    drop(root);
    ns::join(namespace, ns::NEWNS).or_fail("join the mount namespace of createContainer hooks")?;
    terminal.map_or(Ok(()), console::open_again)
}

/// Stage 2, when the gate is open.
pub fn before_command(plan: &Plan<'_>, launch: &Launch) -> Result<()> {
    const MOMENT: Moment = Moment::StartContainer;
    let state = State::at(MOMENT, &launch.spec, &plan.create.id, &plan.create.bundle);
    let state = state.with_pid(std::process::id().cast_signed());
    run_all(of(&launch.spec, MOMENT), MOMENT, &state, Place { directory: Path::new("."), peer: None })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_hooks_could_not_see_is_named() {
        let with = |option: &str| {
            let mut mount = Mount::default();
            mount.set_destination("/data".into()).set_options(Some(vec!["rbind".into(), option.into()]));
            refuse_unbindable(&[Mount::default(), mount])
        };
        assert!(with("rprivate").is_ok() && with("rslave").is_ok());
        for option in ["unbindable", "runbindable"] {
            let error = with(option).unwrap_err().to_string();
            assert!(error.contains("/data") && error.contains("unbindable"), "{error}");
        }
    }
}
