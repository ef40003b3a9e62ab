//! Execs: further processes in the container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use holdfast_pod::channel::{self, ChannelError};
use holdfast_pod::protocol::{Answer, Event, Exec as Request, Failure, FaultKind, FdRole};
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::pidfd::{self, Exit};
use holdfast_sys::socket;
use rustix::io::Errno;

use super::agents::Asked;
use super::calls::{Passed, wrong_phase};
use super::cgroup::Cgroup;
use super::container::Stage;
use super::foreign_exec::Files;
use super::poll::Token;
use super::{Shim, deadline, tree};
use crate::fault::{OrFail, Result, failure, internal};
use crate::link::{Progress, Report, Silence};
use crate::stage::Stdio;
use crate::stage::cgroup::unified_of;
use crate::stage::exec::{self as stage, Plan};
use crate::stage::foreign_exec as foreign_stage;

/// Longest time until the command runs.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Longest time that an exec killed for its time limit may take to exit, until its end is reported all the
/// same.
const KILL_LIMIT: Duration = Duration::from_secs(1);
const STAGE: &str = "exec";

/// A further process.
#[derive(Debug)]
pub struct Exec {
    /// Our number.
    pub serial: u32,
    /// The agent's.
    id: u64,
    /// Who asked, for the answer and for its end.
    asked: Asked,
    answered: bool,
    /// To the stages, until the command runs.
    link: Option<OwnedFd>,
    /// Progress of the stages.
    progress: Progress,
    /// The process that joined, or the runtime's command, until it is reaped.
    helper: Option<Child>,
    /// The process itself, until it is reaped.
    pub process: Option<Child>,
    /// Its number, from its birth on.
    pub pid: Option<i32>,
    /// Master of its terminal, until the answer takes it along.
    pub terminal: Option<OwnedFd>,
    /// When it has to be over, or to have begun.
    pub deadline: Option<Instant>,
    /// Time limit that the deadline comes from.
    limit: Duration,
    /// That is for its whole life, not for its begin alone.
    limited: bool,
    kill_on_disconnect: bool,
    pub timed_out: bool,
    /// Whoever asked has been told of its end. It is there all the same, and dies when it can.
    given_up: bool,
    /// How it ended.
    pub exit: Option<Exit>,
    /// How the one that joined ended, if not as it should.
    helper_exit: Option<Exit>,
    pub failure: Option<Failure>,
    /// Of another runtime's, with its files in the bundle.
    pub foreign: Option<Files>,
}

impl Exec {
    pub fn kill(&self, cgroup: &Cgroup) {
        if let Some(process) = &self.process {
            tree::kill(process, cgroup);
        }
        if let Some(helper) = &self.helper {
            let _ = pidfd::kill(&helper.pidfd);
        }
    }

    fn is_over(&self) -> bool {
        self.link.is_none() && self.helper.is_none() && self.process.is_none()
    }
}

fn take_stdio(request: &Request, passed: &mut Passed) -> Stdio {
    if request.tty {
        return Stdio::Terminal;
    }
    Stdio::Three([FdRole::Stdin, FdRole::Stdout, FdRole::Stderr].map(|role| passed.take(role)))
}

impl Shim {
    /// Clones the exec stage. What comes of it is heard over its link.
    pub fn exec(&mut self, asked: Asked, request: &Request, mut passed: Passed) -> Result<()> {
        let serial = self.serial;
        let process = passed.need(FdRole::Process, STAGE)?;
        let seccomp = passed.take(FdRole::Seccomp);
        let stdio = take_stdio(request, &mut passed);
        let made = self.container.as_ref().filter(|container| container.foreign.is_some());
        let foreign =
            made.map(|container| Files::make(self.run_dir.as_fd(), &container.create.bundle, serial, &stdio));
        let foreign = foreign.transpose()?;
        let bounding = self.bounding;
        let container = self.container_in(STAGE, |stage| matches!(stage, Stage::Running))?;
        let init = container.init.as_ref().ok_or_else(|| wrong_phase(STAGE, "the container has ended"))?;
        let (ours, theirs) = socket::pair().or_fail(STAGE)?;
        let progress = Progress::new().or_fail(STAGE)?;
        let forked = match &container.foreign {
            None => fork_into(&container.cgroup, init.pid)?,
            Some(_) => fork(Birth::default()).or_fail("clone exec stage")?,
        };
        let helper = match (forked, &container.foreign, &foreign) {
            (Forked::Parent(child), ..) => child,
            (Forked::Child, Some(made), Some(files)) => foreign_stage::run(&foreign_stage::Plan {
                runtime: &made.runtime,
                id: &container.create.id,
                bundle: &container.create.bundle,
                names: files.names(),
                process: process.as_fd(),
                stdio: &stdio,
                link: theirs.as_fd(),
            }),
            (Forked::Child, ..) => stage::run(&Plan {
                process: process.as_fd(),
                seccomp: seccomp.as_ref().map(AsFd::as_fd),
                init: init.pidfd.as_fd(),
                tasks: &container.cgroup.tasks,
                stdio: &stdio,
                null: container.null.as_ref(),
                bounding,
                container: &container.ready,
                link: theirs.as_fd(),
                progress: &progress,
            }),
        };
        drop(theirs);
        self.poll.add(&ours, Token::ExecLink(serial)).or_fail("epoll")?;
        self.serial = self.serial.wrapping_add(1);
        let limit = Some(request.timeout_ms).filter(|ms| *ms > 0).map_or(START_LIMIT, Duration::from_millis);
        self.execs.push(Exec {
            serial,
            id: request.exec_id,
            asked,
            answered: false,
            link: Some(ours),
            progress,
            helper: Some(helper),
            process: None,
            pid: None,
            terminal: None,
            deadline: deadline(limit),
            limit,
            limited: request.timeout_ms > 0,
            kill_on_disconnect: request.kill_on_disconnect,
            timed_out: false,
            given_up: false,
            exit: None,
            helper_exit: None,
            failure: None,
            foreign,
        });
        Ok(())
    }

    /// An exec's stages have something to say, or are gone.
    pub fn exec_link_speaks(&mut self, serial: u32) {
        loop {
            let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
            let Some(link) = exec.link.as_ref() else { return };
            match channel::recv::<Report>(link, &mut self.buffer) {
                Err(ChannelError::WouldBlock) => return,
                Ok(Some((Report::Born, mut fds))) => {
                    exec.process = fds.pop().and_then(|pidfd| {
                        let pid = pidfd::pid_of(&pidfd).ok().flatten()?;
                        Some(Child { pid, pidfd })
                    });
                    exec.pid = exec.process.as_ref().map(|process| process.pid);
                }
                Ok(Some((Report::Failed(failure), _))) => exec.failure = Some(failure),
                Ok(Some((Report::Terminal, mut fds))) => exec.terminal = fds.pop(),
                // A container's.
                Ok(Some((Report::Ready(_) | Report::Files | Report::HookRunner | Report::Null, _))) => {}
                Ok(None) | Err(_) => self.exec_link_is_closed(serial),
            }
        }
    }

    fn exec_link_is_closed(&mut self, serial: u32) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
        if let Some(link) = exec.link.take() {
            self.poll.remove(&link);
        }
        if exec.foreign.is_some() {
            // How the runtime's command ends is what counts.
            return self.finish_exec(serial);
        }
        match (exec.pid, &exec.failure) {
            // The one that joined holds the link as well, so a short command may be over and reaped by now.
            (Some(pid), None) if !exec.given_up => match exec.progress.silence() {
                Silence::Runs => self.exec_has_begun(serial, pid),
                Silence::Failed(failure) => exec.failure = Some(failure),
                Silence::Killed(_) => {}
            },
            // Told of when it is reaped: nothing is left of it then, and how its stages ended is known.
            _ => {}
        }
        self.finish_exec(serial);
    }

    /// Its command runs.
    pub fn exec_has_begun(&mut self, serial: u32, pid: i32) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
        let asked = exec.asked;
        exec.answered = true;
        if !exec.limited {
            exec.deadline = None;
        }
        let terminal = exec.terminal.take();
        self.answer_with(asked, Answer::ExecStarted { pid }, terminal);
    }

    /// Children are reaped here; `true` if it was one of an exec.
    pub fn exec_child_ended(&mut self, pid: i32, exit: Exit) -> bool {
        let is = |child: &Option<Child>| child.as_ref().is_some_and(|child| child.pid == pid);
        let Some(exec) = self.execs.iter_mut().find(|exec| is(&exec.helper) || is(&exec.process)) else {
            return false;
        };
        if is(&exec.process) {
            exec.process = None;
            exec.exit = Some(exit);
        } else {
            exec.helper = None;
            exec.helper_exit = Some(exit).filter(|exit| *exit != Exit::Code(0));
            if exec.foreign.is_some() {
                let serial = exec.serial;
                self.runtime_exec_ended(serial, exit);
                return true;
            }
        }
        let serial = exec.serial;
        self.finish_exec(serial);
        true
    }

    /// Answers, or tells of its end, when nothing is left of it.
    pub fn finish_exec(&mut self, serial: u32) {
        let Some(at) = self.execs.iter().position(|exec| exec.serial == serial && exec.is_over()) else {
            return;
        };
        let exec = self.execs.swap_remove(at);
        if let Some(files) = &exec.foreign {
            files.remove(self.run_dir.as_fd());
        }
        if exec.given_up {
            return;
        }
        if !exec.answered {
            let failure = exec.failure.unwrap_or_else(|| {
                let how =
                    exec.helper_exit.or(exec.exit).map_or("by itself".to_owned(), |exit| exit.to_string());
                internal(
                    STAGE,
                    format!("its stage ended without a word ({how}): was it killed, or short of memory?"),
                )
            });
            return self.answer(exec.asked, Answer::Failed(failure));
        }
        let exit_code = exec.exit.map_or(holdfast_pod::protocol::SHIM_DIED_EXIT_CODE, Exit::shell_code);
        self.tell(Event::ExecExited { exec_id: exec.id, exit_code, timed_out: exec.timed_out });
    }

    /// Its time is over: first to run, then to die.
    pub fn exec_is_late(&mut self, serial: u32) {
        let Some(container) = self.container.as_ref() else { return };
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
        if exec.timed_out {
            return self.give_up_exec(serial);
        }
        exec.timed_out = true;
        if !exec.answered {
            let text = format!("the command did not begin within {} ms", exec.limit.as_millis());
            exec.failure = Some(failure(FaultKind::Timeout, STAGE, 0, text));
        }
        exec.kill(&container.cgroup);
        exec.deadline = deadline(KILL_LIMIT);
    }

    /// It was killed and does not die: the container is frozen (v1), or it waits for a disk. Nobody waits for it but us.
    fn give_up_exec(&mut self, serial: u32) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
        exec.deadline = None;
        exec.given_up = true;
        let (asked, exec_id) = (exec.asked, exec.id);
        if let Some(mut failure) = exec.failure.take().filter(|_| !exec.answered) {
            failure.text.push_str(", and does not end though it was killed: is the container frozen?");
            self.answer(asked, Answer::Failed(failure));
        } else {
            let exit_code = Exit::Signal(libc::SIGKILL).shell_code();
            self.tell(Event::ExecExited { exec_id, exit_code, timed_out: true });
        }
    }

    /// KillExec.
    pub fn kill_exec(&mut self, id: u64) -> Result<Answer> {
        let container = self.container.as_ref().ok_or_else(|| wrong_phase(STAGE, "there is no container"))?;
        // One that is over already is success: its end may just be on its way to the agent.
        self.execs.iter().filter(|exec| exec.id == id).for_each(|exec| exec.kill(&container.cgroup));
        Ok(Answer::Ok)
    }

    /// Whoever would have read the output is gone.
    pub fn end_execs_of(&mut self, agent: u32) {
        let Some(container) = self.container.as_ref() else { return };
        let of_agent = |exec: &&Exec| exec.asked.agent == agent && exec.kill_on_disconnect;
        self.execs.iter().filter(of_agent).for_each(|exec| exec.kill(&container.cgroup));
    }

    /// All of them, at the container's end.
    pub fn kill_all_execs(&mut self) {
        let Some(container) = self.container.as_ref() else { return };
        self.execs.iter().for_each(|exec| exec.kill(&container.cgroup));
    }

    /// What the links have to say comes before a child is reaped.
    pub fn hear_execs(&mut self) {
        let serials: Vec<u32> = self.execs.iter().map(|exec| exec.serial).collect();
        for serial in serials {
            self.exec_link_speaks(serial);
        }
    }
}

/// Into the container's cgroup; where that has children by now (a systemd inside), into the one that its init is in.
fn fork_into(cgroup: &Cgroup, init: i32) -> Result<Forked> {
    let birth = |cgroup| Birth { cgroup, ..Birth::default() };
    match fork(birth(cgroup.dir.as_ref().map(AsFd::as_fd))) {
        Err(e) if e.is(Errno::BUSY) => {
            let dir = unified_of(init)?;
            fork(birth(Some(dir.as_fd()))).or_fail("clone exec stage into the container's cgroup")
        }
        other => other.or_fail("clone exec stage into the container's cgroup"),
    }
}
