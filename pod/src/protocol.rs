//! What agent and shim say to each other.
//!
//! The two talk over a unix `SOCK_SEQPACKET` socket: one message, one packet, at most [`MAX_MESSAGE`] bytes of JSON
//! with descriptors in `SCM_RIGHTS`. JSON, because a new agent has to understand the shims that an old one left
//! running, and an old agent those of a new one: an unknown field is ignored, a missing one has its default, an answer
//! or event that is not known is passed over, and a request that is not known is answered with a failure. What can be
//! large (the launch, an exec's process, a BPF program) travels as a sealed memfd. `formats/` keeps messages as each
//! version has sent them, and tests that this one reads them and can be read.
//!
//! The agent spawns the shim with the first connection as descriptor 0 and the shim's run directory as its working
//! directory. The shim binds [`SOCKET_NAME`] in there, so that a restarted agent finds it again. Until
//! [`Request::Commit`] has come the shim ends itself, and undoes everything, when that first connection closes.
//!
//! ```text
//!  agent                         shim
//!    | Create, fds                 |  stage 1: cgroup, mount sources, setns
//!    |          Placing{pid}       |  (systemd driver only; the agent makes the scope)
//!    | Placed, fds                 |
//!    |          Created{..}        |  stage 2 stands at the gate
//!    | Commit                      |  from now on the shim outlives the agent
//!    | Start                       |
//!    |          Started{..}        |
//!    | Exec, Signal, ReopenLog ... |
//!    |          event Exited{..}   |  the exit record is on disk before this is sent; then the shim ends
//! ```
//!
//! The exit record is there, marked unfinished, from the moment that init's end is known. A shim that is killed behind that
//! leaves the poststop hooks and the groups to the agent, and the exit code all the same.

use std::path::PathBuf;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::oci_runtime::OciRuntime;

/// Version of the messages, the launch and the exit record. Fields, requests, answers and events may be added without a new
/// one; a message that lost something, or means something else, needs one.
pub const VERSION: u32 = 1;
/// Longest packet in bytes, without descriptors.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors in one packet (the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 32;
/// Name of the shim's socket in its run directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the exit record in the container's state directory.
pub const EXIT_RECORD_NAME: &str = "exit.json";
/// Exit code of a container that could not be started (containerd's).
pub const START_ERROR_EXIT_CODE: i32 = 128;
/// Exit code of a container whose shim was lost.
pub const SHIM_DIED_EXIT_CODE: i32 = 255;
/// Reason of a container whose command could not be started.
pub const START_ERROR_REASON: &str = "StartError";

/// A packet from the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Number that the answer repeats.
    pub seq: u64,
    /// What to do.
    pub request: Request,
    /// What the packet's descriptors are, in their order.
    #[serde(default)]
    pub fds: Vec<FdRole>,
}

/// The part of a [`Call`] that lets it be answered, whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct CallHead {
    /// See [`Call::seq`].
    pub seq: u64,
}

/// A value of a newer peer's, which is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unknown;

impl<'de> Deserialize<'de> for Unknown {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self)
    }
}

/// A packet from the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packet {
    /// The answer to the call of that number.
    Answer {
        /// The call's number.
        seq: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Something happened.
    Event(Event),
    /// Of a newer shim.
    #[serde(untagged)]
    Unknown(Unknown),
}

/// What a passed descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FdRole {
    /// Create: sealed memfd with a [`crate::launch::Launch`] in JSON.
    Launch,
    /// Create and Exec: sealed memfd with an array of `struct sock_filter`.
    Seccomp,
    /// Create: pidfd of the pod's holder.
    Holder,
    /// Create: pidfd of the init of the container whose pid namespace is joined (mode TARGET).
    PidTarget,
    /// Create: the container's state directory (persistent), where the exit record is written.
    StateDir,
    /// Create, Placed: cgroup v2 directory to clone into.
    CgroupDir,
    /// Create, Placed: a v1 `tasks` file that stage 1 writes `0` into; one descriptor per hierarchy.
    CgroupTasks,
    /// Create, Placed: `memory.events` (v2) or `memory.oom_control` (v1), open for reading.
    OomCount,
    /// Exec: sealed memfd with a [`crate::launch::ExecLaunch`] in JSON.
    Process,
    /// Exec: the process's stdin.
    Stdin,
    /// Exec: the process's stdout. Attach: a pipe that gets what the container writes there, or to its terminal.
    Stdout,
    /// Exec: the process's stderr. Attach: the same for it.
    Stderr,
    /// Of a newer agent: it is closed.
    #[serde(other)]
    Unknown,
}

/// What the agent asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Bring a container to the gate. Descriptors: Launch, StateDir, Holder, and as needed Seccomp, PidTarget,
    /// CgroupDir, CgroupTasks, OomCount.
    Create(Create),
    /// The cgroup is there and holds the pid that Placing named. Descriptors: CgroupDir or CgroupTasks, OomCount.
    Placed,
    /// The container is recorded: outlive the agent.
    Commit,
    /// Open the gate.
    Start,
    /// Run a further process in the container. Descriptors: Process, Seccomp, and without a terminal Stdin, Stdout,
    /// Stderr; one that is missing is /dev/null.
    Exec(Exec),
    /// Copy the container's output from now on to pipes as well. Descriptors: Stdout, Stderr, as wanted. A pipe that
    /// its reader closes ends its part; when the container is over, both are closed.
    Attach(Attach),
    /// Kill an exec's process, and what it left in its session, with SIGKILL.
    KillExec {
        /// Which.
        exec_id: u64,
    },
    /// Send a signal to the container's init.
    Signal {
        /// Number.
        signal: i32,
    },
    /// Kill everything in the container with SIGKILL.
    Kill,
    /// Where does the container stand?
    State,
    /// Close the log file and open its path anew.
    ReopenLog,
    /// Set the size of the container's terminal.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Kill everything, remove the run directory's socket, end. Answered before the end.
    Shutdown,
}

/// Facts that the long-lived shim needs; all else is in the launch, which only stage 1 reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Create {
    /// Container id, for messages.
    pub id: String,
    /// The host path of the CRI log file; `None`: output is drained and dropped.
    pub log_path: Option<PathBuf>,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep stdin open; else /dev/null.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// The container has a pid namespace of its own, which ends with its init. Otherwise the shim is subreaper and
    /// kills what the first process leaves.
    pub own_pid_namespace: bool,
    /// systemd driver: send Placing and wait for Placed before stage 1 goes on.
    pub await_placement: bool,
    /// Longest time from Create to the gate, in milliseconds.
    pub timeout_ms: u64,
    /// How long output is read after the exit while somebody else still holds the pipes, in milliseconds.
    pub drain_ms: u64,
    /// Path of the shim's run directory, which is the container's OCI bundle where one is needed.
    pub bundle: PathBuf,
    /// Its spec has hooks, for our own stages to run.
    pub hooks: bool,
    /// Who makes and starts it, if not our own stages. With `await_placement` the runtime asks systemd for the scope,
    /// and Placing tells of what is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciRuntime>,
}

/// An exec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The agent's number for it, unique within the shim's life.
    pub exec_id: u64,
    /// Kill it after so many milliseconds; 0: never.
    pub timeout_ms: u64,
    /// Kill it when the agent's connection closes.
    pub kill_on_disconnect: bool,
    /// Make it a terminal in the container's devpts, whose master the answer brings.
    pub tty: bool,
}

/// Somebody attaches.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attach {
    /// The agent's number for it, unique within the shim's life.
    pub attach_id: u64,
    /// The answer is to bring a descriptor to write the container's stdin to.
    pub stdin: bool,
}

/// What came of a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Ok,
    /// Create: the container stands at the gate.
    Created(Created),
    /// Create with `await_placement`: put this pid (as the shim's pid namespace numbers it) into its cgroup, then
    /// call Placed. Created or Failed follows under Create's number.
    Placing {
        /// Stage 1.
        pid: i32,
    },
    /// Start: the command runs.
    Started {
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// Exec: the command runs. ExecExited follows. The packet's descriptor is the master of its terminal, if it has one;
    /// the shim keeps none, so that closing it hangs up.
    ExecStarted {
        /// As the host numbers it.
        pid: i32,
    },
    /// Attach: done. The packet's descriptor, if stdin was asked for and is open, is the container's: the write end of
    /// its pipe, or the master of its terminal. With `stdin_once` the shim keeps no copy of a pipe.
    Attached,
    /// State.
    State(State),
    /// It did not work; nothing is left of it.
    Failed(Failure),
    /// Of a newer shim.
    #[serde(untagged)]
    Unknown(Unknown),
}

/// What stands at the gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Created {
    /// init as the host numbers it.
    pub pid: i32,
    /// Its start time in clock ticks since boot (proc(5), stat field 22): with the boot id this names the process.
    pub start_time: u64,
    /// The user that was found in the image, as the container numbers it.
    pub user: ResolvedUser,
}

/// A user with everything that was looked up in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvedUser {
    /// uid.
    pub uid: u32,
    /// gid.
    pub gid: u32,
    /// Supplemental groups, sorted, with `gid`.
    pub groups: Vec<u32>,
    /// Home directory; `/` if unknown.
    pub home: String,
}

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the gate.
    Creating,
    /// At the gate.
    Created,
    /// Running.
    Running,
    /// Over; the exit record is written.
    Exited,
}

/// Answer to [`Request::State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// What stands at the gate or runs.
    pub created: Created,
    /// Nanoseconds since the epoch; 0: not started.
    pub started_at_ns: i64,
    /// Log lines that were dropped since the disk took no writes.
    pub log_lines_dropped: u64,
    /// Start has been called and is not answered yet.
    #[serde(default)]
    pub starting: bool,
    /// The shim's [`VERSION`]; 0: older than versions are.
    #[serde(default)]
    pub version: u32,
}

/// Something that happened without being asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container is over, its log complete, its exit record on disk.
    Exited(ExitRecord),
    /// An exec is over and its output is as far as it goes.
    ExecExited {
        /// Which.
        exec_id: u64,
        /// Exit code, or 128 + signal.
        exit_code: i32,
        /// The time limit ended it.
        timed_out: bool,
    },
    /// An attach's pipes are closed before the container's end, for this reason.
    AttachCut {
        /// Which.
        attach_id: u64,
        /// As its user may read it.
        reason: String,
    },
    /// The kernel killed a process of the container for its memory limit.
    OomKilled,
    /// Something that is no failure, and that somebody should know.
    Warning {
        /// What.
        text: String,
    },
    /// Of a newer shim.
    #[serde(untagged)]
    Unknown(Unknown),
}

/// How a container ended. Written as [`EXIT_RECORD_NAME`] by create and rename.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitRecord {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// The kernel killed a process of it for its memory limit.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch; 0: it never ran.
    pub started_at_ns: i64,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
    /// A reason other than Completed, Error or OOMKilled: `StartError`.
    pub reason: String,
    /// What a user should read.
    pub message: String,
    /// Log lines that were dropped since the disk took no writes.
    pub log_lines_dropped: u64,
    /// Written as soon as the exit was known: the log may lack its end, poststop hooks may not have run, and processes may
    /// be left in the container's groups. The shim writes the record again when all that is done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

/// Whose fault a failure is, which decides the gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request names something that cannot be (user, mount, working directory, profile).
    Invalid,
    /// Something named is not there.
    NotFound,
    /// The container is not in the phase for it.
    Precondition,
    /// A limit of time passed.
    Timeout,
    /// The kernel or we failed; or a newer peer's kind.
    #[serde(other)]
    Internal,
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{stage}: {text}")]
pub struct Failure {
    /// Whose fault.
    pub kind: FaultKind,
    /// The stage it was in, as a user may read it: `open mount source /data`.
    pub stage: String,
    /// errno, or 0.
    pub errno: i32,
    /// What happened and what to change.
    pub text: String,
}
