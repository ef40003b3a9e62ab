//! What the shim knows of its container.

use std::os::fd::OwnedFd;
use std::time::Instant;

use holdfast_pod::protocol::{Create, Created, ExitRecord, Failure, Phase};
use holdfast_sys::clone::Child;
use holdfast_sys::pidfd;

use super::agents::Asked;
use super::cgroup::{Cgroup, Sweep};
use super::foreign::Foreign;
use crate::link::{Progress, Ready};
use crate::pump::{Input, LogFile, Pump, RecordFile};

/// Where it stands.
#[derive(Debug)]
pub enum Stage {
    /// The stages are at work.
    Building,
    /// At the gate.
    Gate,
    /// The gate is open, the command not yet known to run.
    Opening,
    /// The command runs.
    Running,
    /// Everything is being taken back; then this is the answer to Create.
    Undoing(Option<Failure>),
    /// Its init is gone, its log is still being written.
    Draining(ExitRecord),
}

impl Stage {
    /// As the protocol has it.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Building | Self::Undoing(_) => Phase::Creating,
            Self::Gate | Self::Opening => Phase::Created,
            // It is over for the world when the record is written, and then we are gone.
            Self::Running | Self::Draining(_) => Phase::Running,
        }
    }

    /// There is a process at the gate or beyond.
    pub fn has_init(&self) -> bool {
        matches!(self, Self::Gate | Self::Opening | Self::Running)
    }

    /// Why a call is refused.
    pub fn description(&self) -> &'static str {
        match self {
            Self::Building => "the container is still being made",
            Self::Gate => "the container is made but not started",
            Self::Opening => "the container is being started",
            Self::Running => "the container runs already",
            Self::Undoing(_) => "the container is being taken back",
            Self::Draining(_) => "the container has ended",
        }
    }
}

/// The container.
#[derive(Debug)]
pub struct Container {
    /// What was asked for.
    pub create: Create,
    /// The agent's directory of it.
    pub state_dir: OwnedFd,
    /// Its cgroups.
    pub cgroup: Cgroup,
    /// Where it stands.
    pub stage: Stage,
    /// Stage 1, until it is reaped.
    pub helper: Option<Child>,
    /// init, until it is reaped.
    pub init: Option<Child>,
    /// To the stages, until the command runs.
    pub link: Option<OwnedFd>,
    /// Progress of the stages, until the command runs.
    pub progress: Option<Progress>,
    /// What stood at the gate.
    pub ready: Ready,
    /// What Create was answered.
    pub created: Created,
    /// Who waits for Create or Start.
    pub asked: Option<Asked>,
    /// When something has to have happened.
    pub deadline: Option<Instant>,
    /// The agent has recorded it.
    pub committed: bool,
    /// Nanoseconds since the epoch; 0: not started.
    pub started_at_ns: i64,
    /// Why the command does not run.
    pub start_error: Option<Failure>,
    /// What the pump will read, until it starts.
    pub input: Option<Input>,
    /// Where the pump will write, until it starts.
    pub log: Option<LogFile>,
    /// File that the pump will write the exit record to, until the pump starts.
    pub record: Option<RecordFile>,
    /// The pump.
    pub pump: Option<Pump>,
    /// Our end of its stdin, for those who attach.
    pub stdin: Option<OwnedFd>,
    /// Master of its terminal, for its size.
    pub terminal: Option<OwnedFd>,
    /// Its null device, for execs.
    pub null: Option<OwnedFd>,
    /// Who waits for the log to be reopened, and for which time.
    pub reopening: Vec<(u32, Asked)>,
    /// Who waits for our end.
    pub shutdown: Option<Asked>,
    /// Those who run hooks of it before its root is changed.
    pub hook_runners: Vec<Child>,
    /// Who runs hooks of it later.
    pub hook: Option<Child>,
    /// Its poststop hooks have run, or run now.
    pub stopped: bool,
    /// Child that removes the files of a container that was never created.
    pub remover: Option<Child>,
    /// They are removed, or are being removed.
    pub removed: bool,
    /// Killing of the processes that are left in its cgroups, while it goes on.
    pub sweep: Option<Sweep>,
    /// The runtime that makes it in the place of our stages.
    pub foreign: Option<Foreign>,
}

impl Container {
    /// Its stages are at work, which end with `helper` and are heard over `link`. What else there is comes later.
    pub fn new(
        create: Create,
        state_dir: OwnedFd,
        cgroup: Cgroup,
        helper: Child,
        (link, progress): (OwnedFd, Progress),
    ) -> Self {
        Self {
            create,
            state_dir,
            cgroup,
            stage: Stage::Building,
            helper: Some(helper),
            init: None,
            link: Some(link),
            progress: Some(progress),
            ready: Ready::default(),
            created: Created::default(),
            asked: None,
            deadline: None,
            committed: false,
            started_at_ns: 0,
            start_error: None,
            input: None,
            log: None,
            record: None,
            pump: None,
            stdin: None,
            terminal: None,
            null: None,
            reopening: Vec::new(),
            shutdown: None,
            hook_runners: Vec::new(),
            hook: None,
            stopped: false,
            remover: None,
            removed: false,
            sweep: None,
            foreign: None,
        }
    }

    /// SIGKILL for everything of it that there is.
    pub fn kill_everything(&mut self) {
        for child in self.init.iter().chain(&self.helper) {
            let _ = pidfd::kill(&child.pidfd);
        }
        // With a pid namespace of its own, all goes with its init.
        if self.create.own_pid_namespace || matches!(self.stage, Stage::Building) {
            self.cgroup.thaw();
        } else if self.sweep.is_none() {
            self.sweep(Sweep::begin());
        }
    }

    /// Kills what is left in its groups, now and until nothing is. `false`: that has taken too long, and is given up.
    pub fn sweep(&mut self, sweep: Sweep) -> bool {
        if self.cgroup.kill_once() {
            self.sweep = None;
            return true;
        }
        self.sweep = sweep.again();
        self.sweep.is_some()
    }

    /// Children of ours that are still to be reaped before it is over.
    pub fn has_children(&self) -> bool {
        let all = [&self.helper, &self.init, &self.hook, &self.remover];
        all.into_iter().any(Option::is_some) || !self.hook_runners.is_empty()
    }
}
