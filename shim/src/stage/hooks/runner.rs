//! The hooks of the runtime's namespaces before the root is changed: run by a child of the shim that was born outside of
//! the container's cgroup, and that stage 2 asks when it is that far.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use holdfast_pod::channel;
use holdfast_pod::protocol::{Create, Failure};
use holdfast_sys::process::exit_now;
use holdfast_sys::{ns, pidfd, process};
use rustix::process::Signal;

use super::one::{Place, run_all};
use super::{Moment, State, of};
use crate::fault::{OrFail, Result, internal};
use crate::stage::launch;

const STAGE: &str = "run createRuntime hooks";
/// The shim has the real limit; its end, and stage 2's, end the wait.
const LONG: Duration = Duration::from_hours(1);

/// Waits for stage 2, runs them, answers.
pub fn run(create: &Create, launch: BorrowedFd<'_>, peer: BorrowedFd<'_>) -> ! {
    // Nobody would wait for us any more.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The agent's connection, the container's pipes: their ends are for others to tell of.
    let _ = process::close_all_but(&mut [0, 1, 2, launch.as_raw_fd(), peer.as_raw_fd()]);
    // Else stage 2 came not that far.
    if let Ok(Some(((), fds))) = channel::recv_timeout::<()>(peer, &mut channel::buffer(), LONG) {
        let failure = hooks(create, launch, peer, fds).err();
        let _ = channel::send(peer, &failure, &[]);
    }
    exit_now(0)
}

fn hooks(create: &Create, launch: BorrowedFd<'_>, peer: BorrowedFd<'_>, fds: Vec<OwnedFd>) -> Result<()> {
    let launch = launch::read(launch)?;
    let [mounts, init]: [OwnedFd; 2] =
        fds.try_into().map_err(|_| internal(STAGE, "stage 2 sent other descriptors than it should"))?;
    let pid = pidfd::pid_of(&init).or_fail(STAGE)?;
    let pid = pid.ok_or_else(|| internal(STAGE, "the container's init has ended"))?;
    // Where the root is at <bundle>/rootfs.
    ns::join(&mounts, ns::NEWNS).or_fail("join the mount namespace of the bundle")?;
    for moment in [Moment::Prestart, Moment::CreateRuntime] {
        let state = State::at(moment, &launch.spec, &create.id, &create.bundle).with_pid(pid);
        let place = Place { directory: &create.bundle, peer: Some(peer) };
        run_all(of(&launch.spec, moment), moment, &state, place)?;
    }
    Ok(())
}

/// Stage 2's side: `mounts` is the mount namespace in which the root is at `<bundle>/rootfs`.
pub fn ask(runner: BorrowedFd<'_>, mounts: &OwnedFd) -> Result<()> {
    let me = pidfd::open(std::process::id().cast_signed()).or_fail("open our own pidfd")?;
    let lost = |text: String| internal(STAGE, format!("who runs them says nothing: {text}"));
    channel::send(runner, &(), &[mounts.as_fd(), me.as_fd()]).map_err(|e| lost(e.to_string()))?;
    match channel::recv_timeout::<Option<Failure>>(runner, &mut channel::buffer(), LONG) {
        Ok(Some((None, _))) => Ok(()),
        Ok(Some((Some(failure), _))) => Err(failure),
        Ok(None) => Err(lost("it ended".into())),
        Err(e) => Err(lost(e.to_string())),
    }
}
