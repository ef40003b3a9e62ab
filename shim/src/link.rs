//! What a stage and the shim say to each other, over a seqpacket socket of their own.
//!
//! The stage sends [`Report`]s; its end has O_CLOEXEC, so that the end of the stream means either that the command
//! runs or that the stage died, and [`Progress`] tells in which step. The shim sends single bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_pod::channel::{self, ChannelError};
use holdfast_pod::launch::IdMap;
use holdfast_pod::protocol::{Failure, FaultKind, ResolvedUser};
use holdfast_sys::error::CallError;
use holdfast_sys::process::SharedWord;
use holdfast_sys::socket;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::fault::failure;

/// Shim to stage 1: the cgroup is there. Descriptors of v1 `tasks` files may come along.
pub const PLACED: u8 = b'P';
/// Shim to stage 2: the gate is open.
pub const GO: u8 = b'G';

/// Stage to shim.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The files on the host: the room for the exit record, and the log if there is one.
    Files,
    /// I am the process that will run the command; my pidfd comes along.
    Born,
    /// A child of yours runs createContainer hooks; its pidfd comes along.
    HookRunner,
    /// The container's null device comes along, for execs that want one.
    Null,
    /// The terminal that an exec gets; its master comes along.
    Terminal,
    /// I stand at the gate. The terminal's master comes along, if there is one.
    Ready(Ready),
    /// I give up, and end.
    Failed(Failure),
}

/// What the shim wants to know of what stands at the gate.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Who it runs as.
    pub user: ResolvedUser,
    /// uid map of its user namespace; empty: the host's.
    pub uid_map: Vec<IdMap>,
    /// gid map.
    pub gid_map: Vec<IdMap>,
    /// What could not be had and was done without.
    pub warnings: Vec<String>,
}

/// An id as the host numbers it; an id without a mapping stays what it is.
pub fn host_id(map: &[IdMap], id: u32) -> u32 {
    map.iter()
        .find_map(|line| {
            let offset = id.checked_sub(line.inside)?;
            (offset < line.count).then_some(())?;
            line.outside.checked_add(offset)
        })
        .unwrap_or(id)
}

/// The steps of a start, in their order, for errors that a stage cannot tell of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Nothing yet.
    Begin,
    /// Joining the cgroup v1 hierarchies.
    EnterCgroup,
    /// Waiting for the agent to place stage 1 in its cgroup.
    AwaitPlacement,
    /// Reading the launch.
    ReadLaunch,
    /// Opening mount sources.
    OpenSources,
    /// Making the root file system.
    MakeRoot,
    /// Making /dev.
    MakeDevices,
    /// Joining the pod's namespaces.
    JoinPod,
    /// Making the container's own namespaces.
    OwnNamespaces,
    /// Attaching the root.
    AttachRoot,
    /// Mounting what the spec lists.
    Mounts,
    /// Hiding paths.
    Hide,
    /// Finding the user.
    FindUser,
    /// Changing the root.
    Pivot,
    /// Becoming the user.
    BecomeUser,
    /// Standing at the gate.
    Gate,
    /// The rest of the work, once the gate is open.
    Run,
    /// Writing an OCI bundle.
    MakeBundle,
    /// Another OCI runtime is at work.
    RunRuntime,
    /// Hooks run.
    Hooks,
    /// Opening the log and the exit record.
    OpenFiles,
    /// execve(2) of the command.
    Execute,
}

impl Step {
    const ALL: [(Self, &'static str); 22] = [
        (Self::Begin, "begin"),
        (Self::EnterCgroup, "enter cgroup"),
        (Self::AwaitPlacement, "await placement in the cgroup"),
        (Self::ReadLaunch, "read launch"),
        (Self::OpenSources, "open mount sources"),
        (Self::MakeRoot, "make root file system"),
        (Self::MakeDevices, "make /dev"),
        (Self::JoinPod, "join the pod's namespaces"),
        (Self::OwnNamespaces, "make namespaces"),
        (Self::AttachRoot, "attach root"),
        (Self::Mounts, "mount"),
        (Self::Hide, "mask paths"),
        (Self::FindUser, "find user"),
        (Self::Pivot, "change root"),
        (Self::BecomeUser, "become user"),
        (Self::Gate, "wait at the gate"),
        (Self::Run, "prepare to run command"),
        (Self::MakeBundle, "make the bundle"),
        (Self::RunRuntime, "create by the OCI runtime"),
        (Self::Hooks, "run hooks"),
        (Self::OpenFiles, "open the log and the exit record"),
        (Self::Execute, "run command"),
    ];

    fn name_of(number: u32) -> &'static str {
        Self::ALL.get(number as usize).map_or("unknown", |(_, name)| name)
    }
}

/// Current step of a stage, and whether it failed there, in memory that stage and shim share: reporting it
/// takes no system call, which a seccomp program could forbid.
#[derive(Debug)]
pub struct Progress(SharedWord);

/// Meaning of the end of a link over which no failure came.
#[derive(Debug)]
pub enum Silence {
    /// execve(2) has closed it. Or the process was killed in there; that looks the same.
    Runs,
    /// A step failed, and the stage could not say so.
    Failed(Failure),
    /// The stage was killed in this step.
    Killed(&'static str),
}

impl Progress {
    /// The number of a step; above it stand a bit for its failure and the errno.
    const STEP: u32 = 0xff;
    const FAILED: u32 = 0x100;
    const ERRNO_SHIFT: u32 = 16;

    /// At the beginning.
    pub fn new() -> Result<Self, CallError> {
        SharedWord::new().map(Self)
    }

    /// The stage enters this step.
    pub fn at(&self, step: Step) {
        self.0.set(step as u32);
    }

    /// The step has failed, with this errno or 0.
    pub fn failed(&self, errno: i32) {
        let errno = u32::from(u16::try_from(errno).unwrap_or_default());
        self.0.set(self.0.get() & Self::STEP | Self::FAILED | errno << Self::ERRNO_SHIFT);
    }

    /// The step that the stage is in, as a user may read it.
    pub fn name(&self) -> &'static str {
        Step::name_of(self.0.get() & Self::STEP)
    }

    /// For a link that has ended without a word.
    pub fn silence(&self) -> Silence {
        let word = self.0.get();
        if word & Self::FAILED != 0 {
            let errno = (word >> Self::ERRNO_SHIFT) as i32;
            let why = if errno == 0 {
                String::new()
            } else {
                format!("{}; ", std::io::Error::from_raw_os_error(errno))
            };
            let text = format!("{why}no more could be told: does its seccomp profile allow sendmsg?");
            return Silence::Failed(failure(FaultKind::Invalid, self.name(), errno, text));
        }
        if word & Self::STEP == Step::Execute as u32 { Silence::Runs } else { Silence::Killed(self.name()) }
    }
}

/// Sends a report. A shim that is gone is no error of the stage: it finds out at the gate.
pub fn report(link: impl AsFd, report: &Report, fd: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
    channel::send(link, report, fd.as_slice())
}

/// Sends a report with any number of descriptors.
pub fn report_with(link: impl AsFd, report: &Report, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    channel::send(link, report, fds)
}

/// Sends a byte to the stage.
pub fn tell(link: impl AsFd, byte: u8, fds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
    socket::send_packet(link, &[byte], fds)
}

/// Waits for a byte of the shim, however long it takes: the shim has the clock, and its end ends the wait.
///
/// # Errors
/// EPIPE if the shim is gone, EPROTO if it says something else.
pub fn await_byte(link: impl AsFd, expected: u8) -> Result<Vec<OwnedFd>, CallError> {
    let link = link.as_fd();
    let failed = |e| CallError::new("receive from the shim", e);
    let mut byte = [0; 1];
    loop {
        match socket::recv_packet(link, &mut byte) {
            Ok(Some(packet)) if packet.len == 1 && byte[0] == expected => return Ok(packet.fds),
            Ok(Some(_)) => return Err(failed(Errno::PROTO)),
            Ok(None) => return Err(failed(Errno::PIPE)),
            Err(e) if e.is_would_block() => {
                socket::wait_readable(link, std::time::Duration::from_hours(1))?;
            }
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_place_and_name() {
        for (number, (step, name)) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, number);
            assert_eq!(Step::name_of(*step as u32), *name);
        }
        assert_eq!(Step::name_of(99), "unknown");
    }

    #[test]
    fn silence_means_what_was_done_last() {
        let progress = Progress::new().unwrap();
        progress.at(Step::Run);
        assert!(matches!(progress.silence(), Silence::Killed("prepare to run command")));
        progress.at(Step::Execute);
        assert!(matches!(progress.silence(), Silence::Runs));
        progress.failed(Errno::NOEXEC.raw_os_error());
        assert_eq!(progress.name(), "run command");
        let Silence::Failed(failure) = progress.silence() else { panic!("{progress:?}") };
        assert!(
            failure.errno == Errno::NOEXEC.raw_os_error() && failure.text.starts_with("Exec format error")
        );
        progress.at(Step::Run);
        progress.failed(0);
        assert!(matches!(progress.silence(), Silence::Failed(failure) if failure.errno == 0));
    }

    #[test]
    fn ids_are_shifted_within_their_map_only() {
        let map = [IdMap { inside: 0, outside: 100_000, count: 65_536 }];
        assert_eq!(host_id(&map, 0), 100_000);
        assert_eq!(host_id(&map, 65_535), 165_535);
        assert_eq!(host_id(&map, 65_536), 65_536);
        assert_eq!(host_id(&[], 33), 33);
    }

    #[test]
    fn the_gate_opens_for_the_right_byte_alone() {
        let (shim, stage) = socket::pair().unwrap();
        tell(&shim, GO, &[shim.as_fd()]).unwrap();
        assert_eq!(await_byte(&stage, GO).unwrap().len(), 1);
        tell(&shim, PLACED, &[]).unwrap();
        assert!(await_byte(&stage, GO).unwrap_err().is(Errno::PROTO));
        drop(shim);
        assert!(await_byte(&stage, GO).unwrap_err().is(Errno::PIPE));
    }
}
