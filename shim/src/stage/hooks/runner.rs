//! The hooks of the runtime's namespaces before the root is changed: run by a child of the shim that was born outside of
//! the container's cgroup, and that stage 2 asks when it is that far. And how stage 2 asks, here and [`super::beside`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use holdfast_pod::channel;
use holdfast_pod::protocol::{Create, Failure};
use holdfast_sys::process::exit_now;
use holdfast_sys::{mount, pidfd, process};
use rustix::process::Signal;

use super::inside::ROOTFS;
use super::one::{Place, run_all};
use super::{Moment, State, of};
use crate::fault::{OrFail, Result, internal};
use crate::stage::rootfs::PLACE;
use crate::stage::unseen::Unseen;
use crate::stage::{join, launch};

const STAGE: &str = "run createRuntime hooks";
/// The shim has the real limit; its end, and stage 2's, end the wait.
const LONG: Duration = Duration::from_hours(1);

/// Waits for stage 2, runs them, answers.
pub fn run(create: &Create, launch: BorrowedFd<'_>, peer: BorrowedFd<'_>) -> ! {
    // Nobody would wait for us any more.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The agent's connection, the container's pipes: their ends are for others to tell of.
    let _ = process::close_all_but(&mut [0, 1, 2, launch.as_raw_fd(), peer.as_raw_fd()]);
    serve(STAGE, peer, |init| hooks(create, launch, peer, &init).map(|()| None))
}

fn hooks(create: &Create, launch: BorrowedFd<'_>, peer: BorrowedFd<'_>, init: &OwnedFd) -> Result<()> {
    let launch = launch::read(launch)?;
    let pid = pid_outside(STAGE, init)?;
    let root = copy_of_root(init, false)?;
    // A copy of the host's mounts is dear where there are many: it is made for those hooks alone.
    let unseen = Unseen::begin(&create.bundle)?;
    unseen.attach(root, ROOTFS)?;
    unseen.end()?;
    for moment in [Moment::Prestart, Moment::CreateRuntime] {
        let state = State::at(moment, &launch.spec, &create.id, &create.bundle).with_pid(pid);
        let place = Place { directory: &create.bundle, peer: Some(peer) };
        run_all(of(&launch.spec, moment), moment, &state, place)?;
    }
    Ok(())
}

/// Stage 2's side.
pub fn ask(runner: BorrowedFd<'_>) -> Result<()> {
    ask_for(STAGE, runner).map(drop)
}

/// Asks one of those who run hooks, and waits for its answer, with which a descriptor may come.
pub fn ask_for(stage: &str, runner: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let me = pidfd::open(std::process::id().cast_signed()).or_fail("open our own pidfd")?;
    let lost = |text: String| internal(stage, format!("who runs them says nothing: {text}"));
    channel::send(runner, &(), &[me.as_fd()]).map_err(|e| lost(e.to_string()))?;
    match channel::recv_timeout::<Option<Failure>>(runner, &mut channel::buffer(), LONG) {
        Ok(Some((None, mut fds))) => Ok(fds.pop()),
        Ok(Some((Some(failure), _))) => Err(failure),
        Ok(None) => Err(lost("it ended".into())),
        Err(e) => Err(lost(e.to_string())),
    }
}

/// Waits for stage 2, does what it asks for, answers, and ends.
pub fn serve(stage: &str, peer: BorrowedFd<'_>, work: impl FnOnce(OwnedFd) -> Result<Option<OwnedFd>>) -> ! {
    // Else stage 2 came not that far.
    if let Ok(Some(((), fds))) = channel::recv_timeout::<()>(peer, &mut channel::buffer(), LONG) {
        let init = fds.into_iter().next().ok_or_else(|| internal(stage, "stage 2 sent no pidfd"));
        let (failure, made) = match init.and_then(work) {
            Ok(made) => (None, made),
            Err(failure) => (Some(failure), None),
        };
        let _ = channel::send(peer, &failure, made.as_ref().map(AsFd::as_fd).as_slice());
    }
    exit_now(0)
}

/// A copy of the root that stage 2 has built, perhaps with all that is mounted in there, made in its mount namespace. Had
/// stage 2 made it, a neighbour could have opened it in `/proc/PID/fd`, and would come to the host by `..` as soon as
/// it is attached among the host's mounts.
pub fn copy_of_root(init: &OwnedFd, recursive: bool) -> Result<OwnedFd> {
    const STAGE: &str = "copy the container's root for hooks";
    join::in_mounts_of(init, || mount::copy_path(Path::new(PLACE), recursive).or_fail(STAGE))
}

/// The container's init, as our own pid namespace numbers it.
pub fn pid_outside(stage: &str, init: &OwnedFd) -> Result<i32> {
    let pid = pidfd::pid_of(init).or_fail(stage)?;
    pid.ok_or_else(|| internal(stage, "the container's init has ended"))
}
