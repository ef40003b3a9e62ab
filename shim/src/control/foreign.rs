//! A container that another OCI runtime makes, starts and deletes: its commands, one at a time, as children of ours.
//!
//! What they start becomes ours when they end, since we are subreaper; from then on it is a container as any other. A
//! command that failed has said why in its log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use holdfast_pod::oci_runtime::{LOG_LIMIT, OciRuntime, is_about_command, last_error};
use holdfast_pod::protocol::{Answer, Event, Failure, FaultKind};
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::pidfd::{self, Exit};
use holdfast_sys::process::exit_now;
use holdfast_sys::socket;

use super::agents::Asked;
use super::calls::{Passed, wrong_phase};
use super::container::{Container, Stage};
use super::{Shim, deadline, tree};
use crate::fault::{OrFail, Result, failure, internal};
use crate::link::Ready;
use crate::pump::Input;
use crate::pump::clock::now_ns;
use crate::stage::bundle::{CONSOLE_SOCKET, LOG, PID_FILE};
use crate::stage::runtime::become_runtime;

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(25);
/// How long a delete may take.
const DELETE_LIMIT: Duration = Duration::from_secs(20);
/// Most children that ended before it was known what they were.
const MOST_STRAYS: usize = 256;

/// The command that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Create,
    Start,
    /// With `--force` if the plain one failed.
    Delete {
        force: bool,
    },
}

impl Job {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Delete { .. } => "delete",
        }
    }
}

/// What is known of the runtime's side.
#[derive(Debug)]
pub struct Foreign {
    /// The runtime.
    pub runtime: OciRuntime,
    /// What the container's helper is doing.
    job: Option<Job>,
    /// Its time was over.
    late: bool,
    /// What the bundle's maker found, until the container stands at the gate.
    ready: Option<Ready>,
    /// Those whose namespaces are named by pid in the bundle, until it is known that they were alive at its end.
    named: Vec<OwnedFd>,
    /// Where the terminal comes in.
    console: Option<OwnedFd>,
    /// The terminal's master, until the gate.
    terminal: Option<OwnedFd>,
    /// Why the command cannot run; told at Start.
    refused: Option<Failure>,
    /// Nothing of the container is left with the runtime.
    deleted: bool,
}

impl Foreign {
    /// Before the runtime's create. `named` are the processes whose namespaces the bundle names.
    pub fn new(runtime: OciRuntime, named: Vec<OwnedFd>, console: Option<OwnedFd>) -> Self {
        Self {
            runtime,
            job: Some(Job::Create),
            late: false,
            ready: None,
            named,
            console,
            terminal: None,
            refused: None,
            deleted: false,
        }
    }

    /// The bundle is made, and the runtime has it.
    pub fn runs(&self) -> bool {
        self.ready.is_some()
    }
}

/// A child that ended before it was known what it is.
#[derive(Debug, Clone, Copy)]
pub struct Stray {
    pid: i32,
    exit: Exit,
}

impl Shim {
    /// The bundle's maker reports who the user is.
    pub fn bundle_is_ready(&mut self, ready: Ready) {
        if let Some(foreign) = self.foreign() {
            foreign.ready = Some(ready);
        }
    }

    fn foreign(&mut self) -> Option<&mut Foreign> {
        self.container.as_mut()?.foreign.as_mut()
    }

    /// A runtime's command has ended.
    pub fn runtime_ended(&mut self, exit: Exit) {
        let Some(container) = self.container.as_mut() else { return };
        let Some(foreign) = container.foreign.as_mut() else { return };
        let Some(job) = foreign.job.take() else { return };
        match job {
            Job::Create if matches!(container.stage, Stage::Building) => {
                let made = if exit == Exit::Code(0) {
                    self.made_by_runtime()
                } else {
                    Err(self.runtime_failure(job, exit, LOG))
                };
                if let Err(failure) = made {
                    self.refuse_or_undo(failure);
                }
            }
            Job::Create => {}
            Job::Start => self.started_by_runtime(exit),
            Job::Delete { force } => self.deleted_by_runtime(force, exit),
        }
        self.strays.clear();
    }

    /// A command that is not there is told by Start; all else ends Create.
    fn refuse_or_undo(&mut self, failure: Failure) {
        let about_command = failure.kind != FaultKind::Timeout && is_about_command(&failure.text);
        let Some(foreign) = self.foreign() else { return };
        let ready = foreign.ready.take().filter(|_| about_command);
        let Some(ready) = ready else { return self.undo(Some(failure)) };
        foreign.refused = Some(Failure { kind: FaultKind::Invalid, ..failure });
        if let Err(failure) = self.start_pump(Input::Nothing).and_then(|()| self.stand_at_gate(ready)) {
            self.undo(Some(failure));
        }
    }

    /// The runtime's create has left an init behind.
    fn made_by_runtime(&mut self) -> Result<()> {
        const STAGE: &str = "take over what the OCI runtime made";
        let strays = self.strays.clone();
        let Some(container) = self.container.as_mut() else { return Ok(()) };
        let Some(foreign) = container.foreign.as_mut() else { return Ok(()) };
        let child = match left_behind(&container.create.bundle.join(PID_FILE), &strays)? {
            Left::Alive(child) => child,
            Left::Ended(_, exit) => {
                return Err(internal(STAGE, format!("its init ended before its start ({exit})")));
            }
        };
        let pid = child.pid;
        container.init = Some(child);
        for process in foreign.named.drain(..) {
            if pidfd::wait_exit(&process, Duration::ZERO).or_fail(STAGE)? {
                return Err(internal(
                    STAGE,
                    "a process whose namespaces it joins has ended: is the pod being stopped?",
                ));
            }
        }
        if let Some(console) = foreign.console.take() {
            foreign.terminal = Some(take_terminal(&console)?);
        }
        if container.create.await_placement {
            if let Some(asked) = container.asked {
                self.answer(asked, Answer::Placing { pid });
            }
            return Ok(());
        }
        self.all_is_there()
    }

    /// The agent knows the scope that the runtime has asked systemd for.
    pub fn scope_is_known(&mut self, mut passed: Passed) -> Result<Answer> {
        let container = self.container_in("placed", |stage| matches!(stage, Stage::Building))?;
        container.cgroup.take(&mut passed);
        self.watch_oom();
        match self.all_is_there() {
            Ok(()) => Ok(Answer::Ok),
            Err(failure) => {
                self.undo(Some(failure.clone()));
                Err(failure)
            }
        }
    }

    fn all_is_there(&mut self) -> Result<()> {
        let ready = self.foreign().and_then(|foreign| foreign.ready.take());
        let terminal = self.foreign().and_then(|foreign| foreign.terminal.take());
        let ready = ready.ok_or_else(|| internal("reach the gate", "its user is not known"))?;
        self.reach_gate(ready, terminal)
    }

    /// Start: by the runtime, or refused for what its create said.
    pub fn start_by_runtime(&mut self, asked: Asked) -> Result<()> {
        let container = self.container_in("start", |stage| matches!(stage, Stage::Gate))?;
        let refused = container.foreign.as_mut().and_then(|foreign| foreign.refused.take());
        if let Some(failure) = refused {
            container.started_at_ns = now_ns();
            container.start_error = Some(failure.clone());
            self.answer(asked, Answer::Failed(failure));
            self.init_ended(Exit::Code(0));
            return Ok(());
        }
        if container.init.is_none() {
            return Err(wrong_phase("start", "its init has ended"));
        }
        self.begin_job(Job::Start)?;
        let container = self.container_in("start", |_| true)?;
        container.started_at_ns = now_ns();
        container.stage = Stage::Opening;
        container.asked = Some(asked);
        container.deadline = deadline(START_LIMIT);
        Ok(())
    }

    fn started_by_runtime(&mut self, exit: Exit) {
        let failure = (exit != Exit::Code(0)).then(|| self.runtime_failure(Job::Start, exit, LOG));
        let Some(container) = self.container.as_mut() else { return };
        // An init that was over sooner has answered already.
        if !matches!(container.stage, Stage::Opening) {
            return;
        }
        container.deadline = None;
        let asked = container.asked.take();
        let answer = match failure {
            None => {
                container.stage = Stage::Running;
                Answer::Started { started_at_ns: container.started_at_ns }
            }
            Some(failure) => {
                container.start_error = Some(failure.clone());
                container.kill_everything();
                Answer::Failed(failure)
            }
        };
        if let Some(asked) = asked {
            self.answer(asked, answer);
        }
    }

    /// A runtime's command takes too long.
    pub fn runtime_is_late(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        if let Some(foreign) = container.foreign.as_mut() {
            foreign.late = true;
        }
        if let Some(helper) = &container.helper {
            let _ = pidfd::kill(&helper.pidfd);
        }
    }

    /// What the runtime keeps of the container is given back, when nothing of it runs any more. `true`: there is
    /// nothing to wait for.
    pub fn delete_by_runtime(&mut self) -> bool {
        let Some(container) = self.container.as_ref() else { return true };
        let Some(foreign) = container.foreign.as_ref() else { return true };
        if foreign.deleted {
            return true;
        }
        if foreign.job.is_some() || container.helper.is_some() {
            return false;
        }
        // A create that was cut short has left what only force takes back.
        let force = matches!(container.stage, Stage::Undoing(_));
        if force {
            tree::kill_children();
        }
        self.begin_delete(force)
    }

    fn begin_delete(&mut self, force: bool) -> bool {
        match self.begin_job(Job::Delete { force }) {
            Ok(()) => {
                if let Some(container) = self.container.as_mut() {
                    container.deadline = container.deadline.max(deadline(DELETE_LIMIT));
                }
                false
            }
            Err(failure) => {
                self.tell(Event::Warning { text: failure.to_string() });
                self.set_deleted();
                true
            }
        }
    }

    fn deleted_by_runtime(&mut self, force: bool, exit: Exit) {
        if exit == Exit::Code(0) {
            return self.set_deleted();
        }
        let failure = self.runtime_failure(Job::Delete { force }, exit, LOG);
        self.tell(Event::Warning { text: failure.to_string() });
        if force || self.begin_delete(true) {
            self.set_deleted();
        }
    }

    fn set_deleted(&mut self) {
        if let Some(foreign) = self.foreign() {
            foreign.deleted = true;
        }
    }

    fn begin_job(&mut self, job: Job) -> Result<()> {
        let container = self.container_in(job.name(), |_| true)?;
        let Some(foreign) = container.foreign.as_mut() else { return Ok(()) };
        let bundle = container.create.bundle.as_path();
        let mut arguments = foreign.runtime.arguments(&bundle.join(LOG), [job.name()]);
        if (Job::Delete { force: true }) == job {
            arguments.push("--force".into());
        }
        arguments.push(container.create.id.clone().into());
        let _ = fs::remove_file(bundle.join(LOG));
        let child = spawn(&foreign.runtime, arguments, bundle)?;
        foreign.job = Some(job);
        foreign.late = false;
        container.helper = Some(child);
        Ok(())
    }

    /// What a runtime's command that failed has to say.
    fn runtime_failure(&self, job: Job, exit: Exit, log: &str) -> Failure {
        let Some(container) = self.container.as_ref() else { return internal(job.name(), exit.to_string()) };
        let Some(foreign) = container.foreign.as_ref() else { return internal(job.name(), exit.to_string()) };
        let stage = format!("{} {}", foreign.runtime.program.display(), job.name());
        if foreign.late {
            return failure(FaultKind::Timeout, &stage, 0, "no answer in time: it was killed");
        }
        said(&container.create.bundle.join(log), &stage, exit)
    }

    /// A child whose part is not known yet; whoever waits for a pid may ask for it.
    pub fn stray_ended(&mut self, pid: i32, exit: Exit) {
        let waits = self.container.as_ref().is_some_and(|container| container.foreign.is_some());
        if waits && self.strays.len() < MOST_STRAYS {
            self.strays.push(Stray { pid, exit });
        }
    }
}

impl Container {
    /// It stands at the gate without a process, for the runtime has refused its command.
    pub fn is_refused(&self) -> bool {
        self.foreign.as_ref().is_some_and(|foreign| foreign.refused.is_some())
    }
}

/// What a command left behind, known by the pid that it wrote down.
pub enum Left {
    /// A child of ours.
    Alive(Child),
    /// It was one of that pid, and has been reaped.
    Ended(i32, Exit),
}

/// Reads the pid and looks whose it is.
pub fn left_behind(pid_file: &Path, strays: &[Stray]) -> Result<Left> {
    const STAGE: &str = "take over what the OCI runtime started";
    let text = read_end(pid_file).or_fail("read the pid that the OCI runtime wrote")?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
    let pid: i32 = pid.ok_or_else(|| internal(STAGE, format!("it wrote {text:?} as its pid")))?;
    // A child of ours that is not reaped keeps its number. Any other process of that number came after it.
    let alive = pidfd::open(pid).ok().filter(|_| tree::is_child(pid));
    if let Some(pidfd) = alive {
        return Ok(Left::Alive(Child { pid, pidfd }));
    }
    let stray = strays.iter().rev().find(|stray| stray.pid == pid);
    stray
        .map(|stray| Left::Ended(pid, stray.exit))
        .ok_or_else(|| internal(STAGE, format!("process {pid} is none of ours")))
}

/// The master of a terminal that a runtime has sent. It did so before its command ended.
pub fn take_terminal(console: &OwnedFd) -> Result<OwnedFd> {
    const STAGE: &str = "take the terminal from the OCI runtime";
    let connection = socket::accept(console).or_fail(STAGE)?;
    let mut name = [0; 4096];
    let packet = socket::recv_packet(&connection, &mut name).or_fail(STAGE)?;
    packet
        .and_then(|packet| packet.fds.into_iter().next())
        .ok_or_else(|| internal(STAGE, "it sent no descriptor"))
}

/// Listens for a terminal.
pub fn listen_for_terminal(run_dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    socket::listen_stream_at(run_dir, CONSOLE_SOCKET).or_fail("listen for the terminal")
}

/// The last error of a log, or how the command ended.
pub fn said(log: &Path, stage: &str, exit: Exit) -> Failure {
    let text = read_end(log).ok().and_then(|text| last_error(&text));
    let text = text.unwrap_or_else(|| format!("it ended with {exit} and said nothing in its log"));
    internal(stage, text)
}

/// The end of a file in our run directory, which is memory: what has put a FIFO there is not waited for.
pub fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a command that starts nothing: its stdio is /dev/null.
fn spawn(runtime: &OciRuntime, arguments: Vec<OsString>, bundle: &Path) -> Result<Child> {
    const STAGE: &str = "run the OCI runtime";
    match fork(Birth::default()).or_fail(STAGE)? {
        Forked::Parent(child) => Ok(child),
        Forked::Child => {
            let failure = become_runtime(runtime, arguments, bundle, None, None);
            // Where the runtime would have said it.
            let line = serde_json::json!({"level": "error", "msg": failure.to_string()});
            let _ = fs::write(bundle.join(LOG), line.to_string());
            exit_now(1)
        }
    }
}
