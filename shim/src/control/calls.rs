//! The agent's calls, but for Create and Exec.

use std::os::fd::OwnedFd;

use holdfast_pod::protocol::{Answer, Call, CallHead, Failure, FaultKind, FdRole, Request, State, VERSION};
use holdfast_sys::pidfd::{self, Exit};
use holdfast_sys::tty;
use rustix::io::Errno;

use super::agents::Asked;
use super::container::{Container, Stage};
use super::{Shim, shrink};
use crate::fault::{OrFail, Result, failure, internal};
use crate::link;
use crate::pump::clock::now_ns;
use crate::pump::file::advice;

/// Descriptors with their roles.
#[derive(Debug, Default)]
pub struct Passed(Vec<(FdRole, OwnedFd)>);

impl Passed {
    fn new(roles: Vec<FdRole>, fds: Vec<OwnedFd>) -> Self {
        Self(roles.into_iter().zip(fds).collect())
    }

    /// The first of that role.
    pub fn take(&mut self, role: FdRole) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(has, _)| *has == role)?;
        Some(self.0.remove(at).1)
    }

    /// All of that role.
    pub fn take_all(&mut self, role: FdRole) -> Vec<OwnedFd> {
        std::iter::from_fn(|| self.take(role)).collect()
    }

    /// The one of that role, which the call cannot do without.
    pub fn need(&mut self, role: FdRole, stage: &str) -> Result<OwnedFd> {
        self.take(role).ok_or_else(|| internal(stage, format!("descriptor {role:?} is missing")))
    }
}

/// The container is not in the phase for it.
pub fn wrong_phase(stage: &str, text: &str) -> Failure {
    failure(FaultKind::Precondition, stage, 0, text)
}

impl Shim {
    /// Does what a call says; some are answered later.
    pub fn obey(&mut self, agent: u32, call: Call, fds: Vec<OwnedFd>) {
        let asked = Asked { agent, seq: call.seq };
        let passed = Passed::new(call.fds, fds);
        let answered = match call.request {
            Request::Create(create) => self.create(asked, create, passed).map(|()| None),
            Request::Exec(exec) => self.exec(asked, &exec, passed).map(|()| None),
            Request::Attach(attach) => self.attach(asked, &attach, passed).map(|()| None),
            Request::Start => self.start(asked).map(|()| None),
            Request::Shutdown => {
                self.shut_down(asked);
                Ok(None)
            }
            Request::ReopenLog => self.reopen_log(asked).map(|()| None),
            Request::Placed => self.placed(passed).map(Some),
            Request::Commit => self.commit().map(Some),
            Request::KillExec { exec_id } => self.kill_exec(exec_id).map(Some),
            Request::Signal { signal } => self.signal(signal).map(Some),
            Request::Kill => {
                self.kill_all();
                Ok(Some(Answer::Ok))
            }
            Request::State => self.state().map(Some),
            Request::Resize { width, height } => self.resize(width, height).map(Some),
        };
        match answered {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer(asked, answer),
            Err(failure) => self.answer(asked, Answer::Failed(failure)),
        }
    }

    /// Answers a call that cannot be understood, if it has a number: it is a newer agent's. `false`: it has none.
    pub fn refuse(&mut self, agent: u32, call: &[u8], reason: &str) -> bool {
        let Ok(CallHead { seq }) = serde_json::from_slice(call) else { return false };
        let text =
            format!("this container's shim is of another version of holdfast and does not know it: {reason}");
        let failure = failure(FaultKind::Precondition, "understand the request", 0, text);
        self.answer(Asked { agent, seq }, Answer::Failed(failure));
        true
    }

    /// The container, if it is in one of those stages.
    pub fn container_in(&mut self, stage: &str, right: impl Fn(&Stage) -> bool) -> Result<&mut Container> {
        match self.container.as_mut() {
            None => Err(wrong_phase(stage, "there is no container yet")),
            Some(container) if right(&container.stage) => Ok(container),
            Some(container) => Err(wrong_phase(stage, container.stage.description())),
        }
    }

    fn commit(&mut self) -> Result<Answer> {
        let alive = |stage: &Stage| !matches!(stage, Stage::Building | Stage::Undoing(_));
        self.container_in("commit", alive)?.committed = true;
        Ok(Answer::Ok)
    }

    fn start(&mut self, asked: Asked) -> Result<()> {
        const STAGE: &str = "start";
        let container = self.container_in(STAGE, |stage| matches!(stage, Stage::Gate))?;
        if container.foreign.is_some() {
            return self.start_by_runtime(asked);
        }
        let link = container.link.as_ref().ok_or_else(|| wrong_phase(STAGE, "its init has ended"))?;
        link::tell(link, link::GO, &[]).or_fail("open the gate")?;
        container.started_at_ns = now_ns();
        container.stage = Stage::Opening;
        container.asked = Some(asked);
        Ok(())
    }

    fn signal(&mut self, signal: i32) -> Result<Answer> {
        const STAGE: &str = "signal";
        let container = self.container_in(STAGE, Stage::has_init)?;
        let init = container.init.as_ref().ok_or_else(|| wrong_phase(STAGE, "its init has ended"))?;
        pidfd::signal(&init.pidfd, signal).or_invalid(STAGE, "is it a signal's number?")?;
        Ok(Answer::Ok)
    }

    /// What is over already is dead: success, so that stopping can be repeated.
    fn kill_all(&mut self) {
        let Some(container) = &mut self.container else { return };
        container.kill_everything();
        if container.is_refused() {
            // There is no init that could die of it.
            self.init_ended(Exit::Signal(libc::SIGKILL));
        }
    }

    fn state(&mut self) -> Result<Answer> {
        let container = self.container_in("state", |_| true)?;
        Ok(Answer::State(State {
            phase: container.stage.phase(),
            created: container.created.clone(),
            started_at_ns: container.started_at_ns,
            log_lines_dropped: container.pump.as_ref().map_or(0, crate::pump::Pump::dropped),
            starting: matches!(container.stage, Stage::Opening),
            version: VERSION,
        }))
    }

    fn resize(&mut self, width: u16, height: u16) -> Result<Answer> {
        const STAGE: &str = "resize terminal";
        let container = self.container_in(STAGE, Stage::has_init)?;
        let terminal = container.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| wrong_phase(STAGE, "the container has no terminal"))?;
        tty::resize(terminal, width, height).or_fail(STAGE)?;
        Ok(Answer::Ok)
    }

    fn reopen_log(&mut self, asked: Asked) -> Result<()> {
        const STAGE: &str = "reopen log";
        let container = self.container_in(STAGE, |stage| matches!(stage, Stage::Running))?;
        let pump = container.pump.as_ref().ok_or_else(|| wrong_phase(STAGE, "it has no log"))?;
        // A disk may keep the pump for as long as it likes; the agent has a limit of its own.
        let number = pump.reopen();
        container.reopening.push((number, asked));
        Ok(())
    }

    /// The pump has reopened the log, or has ended.
    pub fn pump_speaks(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        let Some(pump) = container.pump.as_ref() else { return };
        pump.acknowledge();
        let cut = pump.take_gone();
        let done = pump.reopened();
        let path = container.create.log_path.clone().unwrap_or_default();
        let (answered, waiting) =
            container.reopening.drain(..).partition::<Vec<_>, _>(|(number, _)| *number <= done.count);
        container.reopening = waiting;
        for (_, asked) in answered {
            let answer = match done.errno {
                0 => Answer::Ok,
                errno => {
                    let advice = advice(Errno::from_raw_os_error(errno));
                    let error = std::io::Error::from_raw_os_error(errno);
                    let text =
                        advice.map_or_else(|| error.to_string(), |advice| format!("{error}: {advice}"));
                    let stage = format!("reopen log {}", path.display());
                    Answer::Failed(failure(FaultKind::Internal, &stage, errno, text))
                }
            };
            self.answer(asked, answer);
        }
        self.tell_of_cut(cut);
    }

    fn shut_down(&mut self, asked: Asked) {
        let Some(container) = self.container.as_mut() else {
            self.over = true;
            self.answer(asked, Answer::Ok);
            return;
        };
        container.shutdown = Some(asked);
        match container.stage {
            Stage::Undoing(_) | Stage::Draining(_) => {}
            Stage::Building => self.undo(None),
            Stage::Gate | Stage::Opening | Stage::Running if !container.committed => self.undo(None),
            // The usual way out: with a record.
            Stage::Gate | Stage::Opening | Stage::Running => self.kill_all(),
        }
        shrink();
    }
}
