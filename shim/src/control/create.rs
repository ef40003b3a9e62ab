//! Create: from the call to the gate, and back if something fails.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use holdfast_pod::channel::{self, ChannelError};
use holdfast_pod::protocol::{Answer, Create, Created, Event, Failure, FaultKind, FdRole};
use holdfast_sys::caps::Bounding;
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::process::exit_now;
use holdfast_sys::{pidfd, proc, process, socket};
use rustix::fs::{Gid, Uid, fchown};
use rustix::pipe::{PipeFlags, pipe_with};

use super::agents::Asked;
use super::calls::{Passed, wrong_phase};
use super::cgroup::Cgroup;
use super::container::{Container, Stage};
use super::foreign::{self, Foreign};
use super::poll::Token;
use super::{Shim, deadline, shrink};
use crate::fault::{OrFail, Result, failure, internal};
use crate::link::{self, Progress, Ready, Report, Silence, host_id};
use crate::pump::{Input, LogFile, Pump, RecordFile};
use crate::stage::hooks::Moment;
use crate::stage::{self, Plan, Stdio, bundle};

/// If the agent names no limit.
const DEFAULT_LIMIT: Duration = Duration::from_mins(2);
/// How long killed children may take to go.
const UNDO_LIMIT: Duration = Duration::from_secs(10);

/// Error text for a stage that ended without a report.
const NO_WORD: &str =
    "the stage ended without a word: was it killed, by its seccomp profile perhaps, or short of memory?";

/// Our ends and the container's.
struct Ends {
    theirs: Stdio,
    input: Option<Input>,
    stdin: Option<OwnedFd>,
}

impl Ends {
    fn make(create: &Create) -> Result<Self> {
        const STAGE: &str = "make stdio";
        if create.tty {
            return Ok(Self { theirs: Stdio::Terminal, input: None, stdin: None });
        }
        // Pipes, not sockets: a program may open /dev/stdout by its name.
        let pipe = || pipe_with(PipeFlags::CLOEXEC).or_fail(STAGE);
        let (stdin, ours) = if create.stdin {
            let (theirs, ours) = pipe()?;
            (Some(theirs), Some(ours))
        } else {
            (None, None)
        };
        let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
        let input = Input::Pipes { stdout, stderr };
        Ok(Self { theirs: Stdio::Three([stdin, Some(out), Some(err)]), input: Some(input), stdin: ours })
    }
}

/// Descriptors and cgroup that the agent passes for the stages.
struct Given {
    launch: OwnedFd,
    state_dir: OwnedFd,
    holder: OwnedFd,
    seccomp: Option<OwnedFd>,
    pid_target: Option<OwnedFd>,
    cgroup: Cgroup,
}

impl Given {
    fn take(passed: &mut Passed) -> Result<Self> {
        const STAGE: &str = "create";
        let mut cgroup = Cgroup::default();
        cgroup.take(passed);
        Ok(Self {
            launch: passed.need(FdRole::Launch, STAGE)?,
            state_dir: passed.need(FdRole::StateDir, STAGE)?,
            holder: passed.need(FdRole::Holder, STAGE)?,
            seccomp: passed.take(FdRole::Seccomp),
            pid_target: passed.take(FdRole::PidTarget),
            cgroup,
        })
    }
}

/// Channels between the stages and the shim, and the shim's bounding set.
struct Wire<'a> {
    link: BorrowedFd<'a>,
    progress: &'a Progress,
    /// Socket to the process that runs OCI hooks, if there are hooks.
    hooks: Option<BorrowedFd<'a>>,
    bounding: Bounding,
}

/// Clones stage 1, or who makes the bundle of another runtime.
fn fork_stage(create: &Create, given: &Given, stdio: &Stdio, wire: &Wire<'_>) -> Result<Child> {
    // Another runtime enters the groups itself, and wants them to be empty.
    let group = given.cgroup.dir.as_ref().filter(|_| create.runtime.is_none());
    let birth = Birth { cgroup: group.map(AsFd::as_fd), ..Birth::default() };
    match fork(birth).or_fail("clone stage 1 into the container's cgroup")? {
        Forked::Parent(child) => Ok(child),
        Forked::Child => match &create.runtime {
            None => stage::run(&Plan {
                create,
                launch: given.launch.as_fd(),
                state_dir: given.state_dir.as_fd(),
                seccomp: given.seccomp.as_ref().map(AsFd::as_fd),
                holder: given.holder.as_fd(),
                pid_target: given.pid_target.as_ref().map(AsFd::as_fd),
                tasks: &given.cgroup.tasks,
                stdio,
                bounding: wire.bounding,
                hooks: wire.hooks,
                link: wire.link,
                progress: wire.progress,
            }),
            Some(runtime) => bundle::run(&bundle::Plan {
                create,
                runtime,
                launch: given.launch.as_fd(),
                state_dir: given.state_dir.as_fd(),
                holder: given.holder.as_fd(),
                pid_target: given.pid_target.as_ref().map(AsFd::as_fd),
                stdio,
                link: wire.link,
                progress: wire.progress,
            }),
        },
    }
}

impl Shim {
    /// Clones stage 1. What comes of it is heard over the link.
    pub fn create(&mut self, asked: Asked, create: Create, passed: Passed) -> Result<()> {
        if self.container.is_some() {
            return Err(wrong_phase("create", "this shim has a container already"));
        }
        // From here on a failure ends us: nothing would be left to be asked for.
        let made = self.begin(asked, create, passed);
        self.over = made.is_err();
        made
    }

    fn begin(&mut self, asked: Asked, create: Create, mut passed: Passed) -> Result<()> {
        const STAGE: &str = "create";
        let given = Given::take(&mut passed)?;
        let ends = Ends::make(&create)?;
        let progress = Progress::new().or_fail(STAGE)?;
        // For the container and its execs, who so share one. Ours, and not one for each of them: a pod's user namespace
        // has a quota of 200 keys for each user.
        process::new_session_keyring().or_fail("begin a session keyring")?;
        let (ours, theirs) = socket::pair().or_fail(STAGE)?;
        if !create.own_pid_namespace || create.runtime.is_some() {
            // What its first process leaves behind in our pid namespace becomes ours to reap; so does what a runtime
            // started and left.
            rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
                .or_fail("become subreaper")?;
        }
        let console = match (&create.runtime, create.tty) {
            (Some(_), true) => Some(foreign::listen_for_terminal(self.run_dir.as_fd())?),
            _ => None,
        };
        let hooks = match &create.runtime {
            None if create.hooks => Some(Self::fork_hook_runner(&create, given.launch.as_fd())?),
            _ => None,
        };
        let (ask, hook_runner) = hooks.unzip();
        let wire = Wire {
            link: theirs.as_fd(),
            progress: &progress,
            hooks: ask.as_ref().map(AsFd::as_fd),
            bounding: self.bounding,
        };
        let helper = fork_stage(&create, &given, &ends.theirs, &wire)?;
        self.poll.add(&ours, Token::Link).or_fail("epoll")?;
        if create.await_placement && create.runtime.is_none() {
            self.answer(asked, Answer::Placing { pid: helper.pid });
        }
        let named = [given.holder].into_iter().chain(given.pid_target).collect();
        let foreign = create.runtime.clone().map(|runtime| Foreign::new(runtime, named, console));
        let limit = Some(create.timeout_ms).filter(|ms| *ms > 0).map_or(DEFAULT_LIMIT, Duration::from_millis);
        let mut container = Container::new(create, given.state_dir, given.cgroup, helper, (ours, progress));
        container.asked = Some(asked);
        container.deadline = deadline(limit);
        container.input = ends.input;
        container.stdin = ends.stdin;
        container.hook_runners = hook_runner.into_iter().collect();
        container.foreign = foreign;
        self.container = Some(container);
        self.watch_oom();
        Ok(())
    }

    /// systemd driver: the cgroup is there.
    pub fn placed(&mut self, mut passed: Passed) -> Result<Answer> {
        const STAGE: &str = "placed";
        let building = |stage: &Stage| matches!(stage, Stage::Building);
        let container = self.container_in(STAGE, building)?;
        if container.foreign.is_some() {
            return self.scope_is_known(passed);
        }
        container.cgroup.take(&mut passed);
        let link = container.link.as_ref().ok_or_else(|| wrong_phase(STAGE, "stage 1 has ended"))?;
        let tasks: Vec<_> = container.cgroup.tasks.iter().map(AsFd::as_fd).collect();
        link::tell(link, link::PLACED, &tasks).or_fail("tell stage 1 that it is placed")?;
        self.watch_oom();
        Ok(Answer::Ok)
    }

    /// The stages have something to say, or are gone.
    pub fn link_speaks(&mut self) {
        while let Some(link) = self.container.as_ref().and_then(|container| container.link.as_ref()) {
            match channel::recv::<Report>(link, &mut self.buffer) {
                Err(ChannelError::WouldBlock) => return,
                Ok(Some((report, fds))) => self.stage_reports(report, fds),
                Ok(None) => self.link_is_closed(),
                Err(e) => {
                    self.warn(format!("what a stage says cannot be understood: {e}"));
                    self.link_is_closed();
                }
            }
        }
    }

    fn stage_reports(&mut self, report: Report, mut fds: Vec<OwnedFd>) {
        let Some(container) = self.container.as_mut() else { return };
        match report {
            Report::Files => {
                if let Err(failure) = container.take_files(fds) {
                    self.undo(Some(failure));
                }
            }
            Report::Born => {
                container.init = fds.pop().and_then(known);
                if matches!(container.stage, Stage::Undoing(_)) {
                    container.kill_everything();
                }
            }
            Report::HookRunner => container.hook_runners.extend(fds.pop().and_then(known)),
            Report::Ready(ready) if container.foreign.is_some() => self.bundle_is_ready(ready),
            Report::Ready(ready) => {
                if let Err(failure) = self.reach_gate(ready, fds.pop()) {
                    self.undo(Some(failure));
                }
            }
            Report::Null => container.null = fds.pop(),
            // Only an exec's.
            Report::Terminal => {}
            Report::Failed(failure) => match container.stage {
                Stage::Building => self.undo(Some(failure)),
                Stage::Opening => self.start_has_failed(failure),
                _ => {}
            },
        }
    }

    /// The command does not run; its process ends by itself.
    fn start_has_failed(&mut self, failure: Failure) {
        let Some(container) = self.container.as_mut() else { return };
        container.start_error = Some(failure.clone());
        if let Some(asked) = container.asked.take() {
            self.answer(asked, Answer::Failed(failure));
        }
    }

    /// The container's process stands at the gate: give it its pipes, start the pump, answer.
    pub fn reach_gate(&mut self, ready: Ready, terminal: Option<OwnedFd>) -> Result<()> {
        const STAGE: &str = "reach the gate";
        let Some(container) = self.container.as_mut().filter(|one| matches!(one.stage, Stage::Building))
        else {
            return Ok(());
        };
        let init = container.init.as_ref().ok_or_else(|| internal(STAGE, "its process is not known"))?;
        let created = Created {
            pid: init.pid,
            start_time: proc::start_time(init.pid).or_fail(STAGE)?,
            user: ready.user.clone(),
        };
        let input = match (terminal, container.input.take()) {
            (Some(master), _) => {
                container.terminal = Some(master.try_clone().or_fail(STAGE)?);
                Input::Terminal(master)
            }
            (None, Some(input)) => {
                own_pipes(&input, container.stdin.as_ref(), &ready)?;
                input
            }
            (None, None) => return Err(internal(STAGE, "no terminal came")),
        };
        container.created = created;
        self.start_pump(input)?;
        self.stand_at_gate(ready)
    }

    /// From here on the log and the exit record are the pump's.
    pub fn start_pump(&mut self, input: Input) -> Result<()> {
        let Some(container) = self.container.as_mut() else { return Ok(()) };
        let pump = Pump::start(input, container.log.take(), container.record.take());
        let pump = pump.or_fail("start log pump")?;
        self.poll.add(pump.notice(), Token::Pump).or_fail("epoll")?;
        container.pump = Some(pump);
        Ok(())
    }

    /// From here on Start is what is waited for.
    pub fn stand_at_gate(&mut self, ready: Ready) -> Result<()> {
        for text in ready.warnings.clone() {
            self.tell(Event::Warning { text });
        }
        let container = self.container_in("reach the gate", |stage| matches!(stage, Stage::Building))?;
        container.created.user = ready.user.clone();
        let created = container.created.clone();
        container.ready = Ready { warnings: Vec::new(), ..ready };
        container.deadline = None;
        container.stage = Stage::Gate;
        let asked = container.asked.take();
        shrink();
        if let Some(asked) = asked {
            self.answer(asked, Answer::Created(created));
        }
        Ok(())
    }

    /// execve has closed it, or the stages have died.
    fn link_is_closed(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        if let Some(link) = container.link.take() {
            self.poll.remove(&link);
        }
        match container.stage {
            // A runtime has been started: how it ended is what counts.
            Stage::Building if container.foreign.as_ref().is_some_and(Foreign::runs) => {}
            Stage::Building => {
                let step = container.progress.as_ref().map_or("unknown", Progress::name);
                self.undo(Some(internal(step, NO_WORD)));
            }
            Stage::Opening if container.start_error.is_none() => {
                match container.progress.take().map_or(Silence::Runs, |progress| progress.silence()) {
                    Silence::Runs => {}
                    Silence::Failed(failure) => return self.start_has_failed(failure),
                    Silence::Killed(step) => return self.start_has_failed(internal(step, NO_WORD)),
                }
                container.stage = Stage::Running;
                if self.begin_hooks(Moment::Poststart) {
                    // Start is answered when they are through.
                    return;
                }
                let Some(container) = self.container.as_mut() else { return };
                let started_at_ns = container.started_at_ns;
                if let Some(asked) = container.asked.take() {
                    self.answer(asked, Answer::Started { started_at_ns });
                }
            }
            _ => {}
        }
    }

    /// Takes everything back. `failure` is the answer to Create, if somebody waits for one.
    pub fn undo(&mut self, failure: Option<Failure>) {
        let Some(container) = self.container.as_mut() else { return };
        if matches!(container.stage, Stage::Undoing(_)) {
            return;
        }
        container.kill_everything();
        container.stage = Stage::Undoing(failure);
        container.deadline = deadline(UNDO_LIMIT);
        // Whoever is still at the gate sees that nobody will open it.
        if let Some(link) = container.link.take() {
            self.poll.remove(&link);
        }
        self.check_end();
    }

    /// A limit has passed.
    pub fn container_is_late(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        container.deadline = None;
        match container.stage {
            Stage::Building => {
                let step = container.progress.as_ref().map_or("unknown", Progress::name);
                let text = format!("not done within {} ms", container.create.timeout_ms);
                self.undo(Some(failure(FaultKind::Timeout, step, 0, text)));
            }
            // Children that do not go when killed wait for a disk: we do not.
            Stage::Undoing(_) => self.finish_undo(),
            Stage::Draining(_) => self.finish(),
            Stage::Opening => self.runtime_is_late(),
            _ => {}
        }
    }

    /// The files of a container that never was, removed by a child: a disk may make it wait. `true`: they are gone.
    pub fn files_are_removed(&mut self) -> bool {
        let Some(container) = self.container.as_mut() else { return true };
        if std::mem::replace(&mut container.removed, true) {
            return container.remover.is_none();
        }
        match fork(Birth::default()) {
            Ok(Forked::Parent(child)) => {
                container.remover = Some(child);
                false
            }
            Ok(Forked::Child) => {
                stage::files::remove(&container.create, container.state_dir.as_fd());
                exit_now(0)
            }
            // They are empty.
            Err(_) => true,
        }
    }

    /// Nothing is left of it.
    pub fn finish_undo(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        let Stage::Undoing(failure) = &mut container.stage else { return };
        let failure = failure.take();
        let (asked, shutdown) = (container.asked.take(), container.shutdown.take());
        self.over = true;
        // Gone before anybody hears of it: who asks again must not meet what is left of the first try.
        self.leave();
        if let Some(asked) = asked {
            let failure = failure.unwrap_or_else(|| internal("create", "it was taken back"));
            self.answer(asked, Answer::Failed(failure));
        }
        if let Some(asked) = shutdown {
            self.answer(asked, Answer::Ok);
        }
    }
}

/// A child that a stage made for us.
fn known(pidfd: OwnedFd) -> Option<Child> {
    let pid = pidfd::pid_of(&pidfd).ok().flatten()?;
    Some(Child { pid, pidfd })
}

impl Container {
    /// Takes the files that the stages have opened on the host: the exit record, and the log if there is one.
    fn take_files(&mut self, fds: Vec<OwnedFd>) -> Result<()> {
        const STAGE: &str = "take the log and the exit record";
        let mut fds = fds.into_iter();
        let record = fds.next().ok_or_else(|| internal(STAGE, "no descriptor came"))?;
        let dir = self.state_dir.try_clone().or_fail(STAGE)?;
        self.record = Some(RecordFile::new(dir, record));
        if let (Some(path), Some(file)) = (&self.create.log_path, fds.next()) {
            self.log = Some(LogFile::opened(path, file).or_fail(STAGE)?);
        }
        Ok(())
    }
}

/// Pipes belong to the user, who may then open /dev/stdout by its name.
fn own_pipes(input: &Input, stdin: Option<&OwnedFd>, ready: &Ready) -> Result<()> {
    let uid = Some(Uid::from_raw(host_id(&ready.uid_map, ready.user.uid)));
    let gid = Some(Gid::from_raw(host_id(&ready.gid_map, ready.user.gid)));
    if let Input::Pipes { stdout, stderr } = input {
        // Both ends of a pipe are one inode.
        for pipe in [Some(stdout), Some(stderr), stdin].into_iter().flatten() {
            fchown(pipe, uid, gid).or_fail("give the pipes to the user")?;
        }
    }
    Ok(())
}
