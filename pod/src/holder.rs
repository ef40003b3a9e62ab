//! The agent's side of the holder: starts it, finds it again, ends it.
//!
//! ```text
//!  agent                       holdfast-pod, parent half      child half: the holder
//!    | spawn, socket as fd 0 -->  | clone3(NEW..., CLONE_PARENT) -->  |
//!    |                            | id maps, sysctls                  | host name, root, privileges
//!    | <-- record, its pidfd      | <-- ready                         |
//!    | reap                       ends                                |
//!    | writes it down             .                                   |
//!    | one byte ------------------------------------------------->    | closes the socket, sleeps
//! ```
//!
//! Until that byte the holder ends by itself when the agent's end of the socket closes. Everything here blocks, with a
//! limit: call it on a thread that may.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_sys::clone::Child;
use holdfast_sys::error::CallError;
use holdfast_sys::{pidfd, proc, socket};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::executable::{self, ExecutableError, Found};
use crate::launch::IdMap;
use crate::protocol::FaultKind;
use crate::report::{MAX_REPORT, Report};
use crate::sysctl::{Sysctl, SysctlNamespace};

/// How long killed processes may take until they are gone. The kernel frees a network namespace later, by itself.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Which namespaces a pod has for itself, besides the mount namespace that a holder always has, and the user
/// namespace that it has if it has id maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network; `lo` is up in it.
    pub net: bool,
    /// System V and POSIX IPC, and /dev/shm.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Process ids; the holder is process 1 and reaps.
    pub pid: bool,
}

/// What a pod's holder is to be.
#[derive(Debug, Clone)]
pub struct HolderConfig {
    /// The program `holdfast-pod`, absolute.
    pub program: PathBuf,
    /// The pod's id, for whoever reads ps.
    pub pod_id: String,
    /// Host name, 1 to 64 bytes; only with `uts`.
    pub hostname: Option<String>,
    /// New namespaces.
    pub namespaces: Namespaces,
    /// uid map of a new user namespace; empty, as `gid_map`: none.
    pub uid_map: Vec<IdMap>,
    /// gid map.
    pub gid_map: Vec<IdMap>,
    /// Sysctls of the pod's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Size of /dev/shm in bytes, above 0.
    pub shm_size: u64,
    /// SELinux label of /dev/shm; empty: none.
    pub shm_label: String,
    /// Longest time until it is ready.
    pub timeout: Duration,
}

/// Why there is no holder, or not what one wanted of it.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// Not a sysctl that this pod may set.
    #[error("sysctl {name:?} {reason}")]
    Sysctl {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A value that no holder can have.
    #[error("holder of pod {pod_id}: {reason}")]
    Config {
        /// The pod.
        pod_id: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The program could not be started.
    #[error("holder program")]
    Spawn(#[source] ExecutableError),
    /// A kernel call of ours.
    #[error("{operation} of the holder")]
    Call {
        /// What for.
        operation: &'static str,
        /// The call.
        #[source]
        source: CallError,
    },
    /// The holder came as far as this stage; the text may say what to change.
    #[error("{stage}{}{text}", if text.is_empty() { "" } else { ": " })]
    Stage {
        /// What it tried.
        stage: String,
        /// What to change.
        text: String,
        /// The errno.
        #[source]
        errno: io::Error,
    },
    /// It ended without a record, killed perhaps.
    #[error("the holder ended without a word")]
    NoRecord,
    /// What it sent is no record: a program of another version?
    #[error("what the holder program sent is no record: is {} of this version?", program.display())]
    BadRecord {
        /// The program.
        program: PathBuf,
    },
    /// It is gone.
    #[error("the holder, pid {pid}, has ended")]
    Gone {
        /// Its pid.
        pid: i32,
    },
    /// A limit of time passed.
    #[error("{stage}: not done within {limit_ms} ms")]
    Timeout {
        /// What was waited for.
        stage: &'static str,
        /// The limit.
        limit_ms: u128,
    },
}

impl HolderError {
    /// Whose fault it is.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Sysctl { .. } | Self::Config { .. } => FaultKind::Invalid,
            // A value that the kernel does not take, or a sysctl that it does not have.
            Self::Stage { stage, errno, .. } if stage.starts_with("write sysctl") => {
                match errno.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::INVAL | Errno::NOENT | Errno::RANGE) => FaultKind::Invalid,
                    _ => FaultKind::Internal,
                }
            }
            Self::Timeout { .. } => FaultKind::Timeout,
            Self::Gone { .. } => FaultKind::Precondition,
            _ => FaultKind::Internal,
        }
    }

    fn call(operation: &'static str) -> impl FnOnce(CallError) -> Self {
        move |source| Self::Call { operation, source }
    }
}

/// Starts a holder. It stands, ready, when this returns; write it down and [`PendingHolder::commit`] it.
pub fn spawn(config: &HolderConfig) -> Result<PendingHolder, HolderError> {
    let args = arguments(config)?;
    failpoint("runtime.holder.spawn", "start")?;
    let started = Instant::now();
    let (ours, theirs) = socket::pair().map_err(HolderError::call("make the socket"))?;
    let half = executable::start(&config.program, &args, theirs.as_fd(), None).map_err(HolderError::Spawn)?;
    drop(theirs);
    let outcome = await_record(config, &ours, started).and_then(|(pid, pidfd)| {
        let start_time = proc::start_time(pid).map_err(HolderError::call("read the start time"))?;
        Ok(Holder { pid, start_time, pidfd })
    });
    match outcome {
        Ok(holder) => {
            let pending = PendingHolder { holder, socket: ours, committed: false };
            let left = config.timeout.saturating_sub(started.elapsed());
            reap_half(&half, left)?;
            Ok(pending)
        }
        Err(error) => {
            drop(ours);
            end_group(&half);
            Err(error)
        }
    }
}

fn failpoint(name: &'static str, operation: &'static str) -> Result<(), HolderError> {
    holdfast_sys::failpoint::at(name)
        .map_err(|error| CallError::new(name, error))
        .map_err(HolderError::call(operation))
}

/// The record, and the holder that it names.
fn await_record(
    config: &HolderConfig,
    socket: &OwnedFd,
    started: Instant,
) -> Result<(i32, OwnedFd), HolderError> {
    const STAGE: &str = "wait for the holder to be ready";
    let left = config.timeout.saturating_sub(started.elapsed());
    if left.is_zero()
        || !socket::wait_readable(socket, left).map_err(HolderError::call("wait for the record"))?
    {
        return Err(HolderError::Timeout { stage: STAGE, limit_ms: config.timeout.as_millis() });
    }
    let mut bytes = [0; MAX_REPORT];
    let packet = socket::recv_packet(socket, &mut bytes)
        .map_err(HolderError::call("receive the record"))?
        .ok_or(HolderError::NoRecord)?;
    let bad = || HolderError::BadRecord { program: config.program.clone() };
    let report = Report::decode(&bytes[..packet.len]).ok_or_else(bad)?;
    if !report.stage.is_empty() {
        return Err(HolderError::Stage {
            stage: String::from_utf8_lossy(report.stage).into_owned(),
            text: String::from_utf8_lossy(report.text).into_owned(),
            errno: io::Error::from_raw_os_error(report.errno),
        });
    }
    let pidfd = packet.fds.into_iter().next().filter(|_| report.pid > 1).ok_or_else(bad)?;
    Ok((report.pid, pidfd))
}

/// The parent half has sent its record as its last act.
fn reap_half(half: &Child, limit: Duration) -> Result<(), HolderError> {
    let operation = "reap the parent half";
    if !pidfd::wait_exit(&half.pidfd, limit).map_err(HolderError::call(operation))? {
        end_group(half);
        return Err(HolderError::Timeout { stage: operation, limit_ms: limit.as_millis() });
    }
    reap(&half.pidfd).map_err(HolderError::call(operation))
}

/// Kills and reaps both halves, whether the second one is known or not: both are our children, in the process group
/// that the first one leads. Its number stays taken until the last of them is reaped.
fn end_group(half: &Child) {
    holdfast_sys::process::kill_group(half.pid);
    let Some(group) = Pid::from_raw(half.pid) else { return };
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        match waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            // ECHILD: all are gone. Or one hangs in the kernel, and nothing helps.
            Ok(None) | Err(_) => return,
        }
    }
}

/// Reaps what has ended; ECHILD where it is no child of ours, as for a restarted agent, or reaped already.
fn reap(pidfd: impl AsFd) -> Result<(), CallError> {
    match pidfd::reap(pidfd) {
        Err(e) if e.is(Errno::CHILD) => Ok(()),
        other => other.map(drop),
    }
}

/// A holder that ends with this value, or with the agent, unless it is committed.
#[derive(Debug)]
pub struct PendingHolder {
    holder: Holder,
    socket: OwnedFd,
    committed: bool,
}

impl PendingHolder {
    /// As our pid namespace numbers it.
    pub fn pid(&self) -> i32 {
        self.holder.pid
    }

    /// Clock ticks since boot (proc(5), stat field 22).
    pub fn start_time(&self) -> u64 {
        self.holder.start_time
    }

    /// The process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.holder.pidfd()
    }

    /// It is written down: let it outlive us. On an error it is ended.
    pub fn commit(mut self) -> Result<Holder, HolderError> {
        failpoint("runtime.holder.commit", "commit")?;
        let Holder { pid, start_time, ref pidfd } = self.holder;
        let pidfd = pidfd.try_clone().map_err(|e| CallError::new("dup(pidfd)", e));
        let pidfd = pidfd.map_err(HolderError::call("commit"))?;
        commit(&self.holder, &self.socket)?;
        self.committed = true;
        Ok(Holder { pid, start_time, pidfd })
    }
}

impl Drop for PendingHolder {
    fn drop(&mut self) {
        if !self.committed {
            // It ends by the closed socket as well; nobody is there to take an error.
            let _ = self.holder.kill_and_wait(KILL_LIMIT);
        }
    }
}

/// It answers by closing its end.
fn commit(holder: &Holder, socket: &OwnedFd) -> Result<(), HolderError> {
    const STAGE: &str = "wait for the holder's answer to commit";
    const LIMIT: Duration = Duration::from_secs(10);
    let gone = |_| HolderError::Gone { pid: holder.pid };
    socket::send_packet(socket, b"c", &[]).map_err(gone)?;
    if !socket::wait_readable(socket, LIMIT).map_err(HolderError::call("commit"))? {
        return Err(HolderError::Timeout { stage: STAGE, limit_ms: LIMIT.as_millis() });
    }
    if holder.is_alive() { Ok(()) } else { Err(HolderError::Gone { pid: holder.pid }) }
}

/// A holder that is written down. Dropping this value does nothing to it.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    start_time: u64,
    pidfd: OwnedFd,
}

impl Holder {
    /// The holder that a record names, if it still runs. Both numbers are of one boot: compare the boot id first.
    pub fn find(pid: i32, start_time: u64) -> Result<Option<Self>, HolderError> {
        let pidfd = proc::open_identified(pid, start_time).map_err(HolderError::call("find the process"))?;
        let holder = pidfd.map(|pidfd| Self { pid, start_time, pidfd });
        Ok(holder.filter(Self::is_alive))
    }

    /// The holders of a pod whose record is lost, by their command lines. `pod_id` is the whole id: it is in nobody
    /// else's.
    pub fn search(program: &Path, pod_id: &str) -> Vec<Self> {
        let found = executable::search(program, &["--pod", pod_id]).into_iter();
        let holders = found.map(|Found { pid, start_time, pidfd }| Self { pid, start_time, pidfd });
        holders.filter(Self::is_alive).collect()
    }

    /// As our pid namespace numbers it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Clock ticks since boot (proc(5), stat field 22).
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The process: readable when it has ended. setns(2) on it wants all namespaces in one call, by the host's root:
    /// after the user namespace alone is joined, the rest is EPERM, since the holder may not be traced from in there.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Has it not ended? Never waits.
    pub fn is_alive(&self) -> bool {
        matches!(pidfd::wait_exit(&self.pidfd, Duration::ZERO), Ok(false))
    }

    /// A namespace of it by its name under /proc/PID/ns: `net`, `ipc`, `uts`, `mnt`, `user`, `pid`, `cgroup`. The
    /// descriptor keeps the namespace.
    pub fn namespace(&self, kind: &str) -> Result<OwnedFd, HolderError> {
        let path = format!("/proc/{}/ns/{kind}", self.pid);
        let opened = File::open(&path);
        // What was opened before the holder was seen alive was the holder's.
        if !self.is_alive() {
            return Err(HolderError::Gone { pid: self.pid });
        }
        let source = |e| CallError::new(format!("open(\"{path}\")"), e);
        opened.map(OwnedFd::from).map_err(source).map_err(HolderError::call("open a namespace"))
    }

    /// Ends it with SIGKILL, and everything in its pid namespace if it has one. Gone already is success.
    pub fn kill_and_wait(&self, limit: Duration) -> Result<(), HolderError> {
        let operation = "end the process";
        failpoint("runtime.holder.kill", operation)?;
        pidfd::kill(&self.pidfd).map_err(HolderError::call(operation))?;
        if !pidfd::wait_exit(&self.pidfd, limit).map_err(HolderError::call(operation))? {
            return Err(HolderError::Timeout {
                stage: "wait for the killed holder",
                limit_ms: limit.as_millis(),
            });
        }
        reap(&self.pidfd).map_err(HolderError::call(operation))
    }
}

/// The command line, checked: what is wrong with it is the request's fault, and said in the request's words.
pub(crate) fn arguments(config: &HolderConfig) -> Result<Vec<OsString>, HolderError> {
    check(config)?;
    let mut args: Vec<OsString> = vec!["--pod".into(), config.pod_id.clone().into()];
    let mut add = |option: &str, value: String| args.extend([option.into(), value.into()]);
    let own = config.namespaces;
    let user = !config.uid_map.is_empty();
    let wanted = [(own.net, "net"), (own.ipc, "ipc"), (own.uts, "uts"), (own.pid, "pid"), (user, "user")];
    let wanted: Vec<_> = wanted.into_iter().filter_map(|(new, name)| new.then_some(name)).collect();
    add("--new", wanted.join(","));
    if let Some(hostname) = &config.hostname {
        add("--hostname", hostname.clone());
    }
    if own.ipc {
        add("--shm-size", config.shm_size.to_string());
        if !config.shm_label.is_empty() {
            add("--shm-label", config.shm_label.clone());
        }
    }
    for (option, maps) in [("--uid-map", &config.uid_map), ("--gid-map", &config.gid_map)] {
        for map in maps {
            add(option, format!("{} {} {}", map.inside, map.outside, map.count));
        }
    }
    for (name, value) in &config.sysctls {
        add("--sysctl", format!("{name}={value}"));
    }
    Ok(args)
}

fn check(config: &HolderConfig) -> Result<(), HolderError> {
    const HOST_NAME_MAX: usize = 64;
    let own = config.namespaces;
    let reason = match &config.hostname {
        Some(_) if !own.uts => Some("a host name needs a uts namespace of the pod's own"),
        Some(name) if name.is_empty() || name.len() > HOST_NAME_MAX => {
            Some("the host name has not 1 to 64 bytes")
        }
        _ if own.ipc && (config.shm_size == 0 || i64::try_from(config.shm_size).is_err()) => {
            Some("the size of /dev/shm is 0 or above 2^63")
        }
        _ if config.uid_map.is_empty() != config.gid_map.is_empty() => {
            Some("a user namespace needs a uid map and a gid map")
        }
        _ if config.uid_map.iter().chain(&config.gid_map).any(|map| map.count == 0) => {
            Some("an id map of no ids")
        }
        _ => None,
    };
    if let Some(reason) = reason {
        return Err(HolderError::Config { pod_id: config.pod_id.clone(), reason });
    }
    config.sysctls.iter().try_for_each(|(name, value)| {
        let reason = match Sysctl::parse(name.as_bytes()) {
            Err(refusal) => refusal.text(),
            Ok(sysctl) if sysctl.namespace == SysctlNamespace::Net && !own.net => {
                "needs a network namespace of the pod's own, which a pod on the host's network has not"
            }
            Ok(sysctl) if sysctl.namespace == SysctlNamespace::Ipc && !own.ipc => {
                "needs an ipc namespace of the pod's own"
            }
            Ok(_) if value.contains('\0') => "has a zero byte in its value",
            Ok(_) => return Ok(()),
        };
        Err(HolderError::Sysctl { name: name.clone(), reason })
    })
}
