//! Hooks of a container that our own stages start: who runs those of the runtime's namespaces.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use holdfast_pod::protocol::{Answer, Create, Event};
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::socket;

use super::container::Stage;
use super::foreign::read_end;
use super::{Shim, deadline};
use crate::fault::{OrFail, Result};
use crate::stage::hooks::{Moment, later, runner};

/// How long the hooks of an end may keep it from being told.
const POSTSTOP_LIMIT: Duration = Duration::from_secs(20);

impl Shim {
    /// Clones who runs the hooks before the root is changed: here, for stage 1 is in the container's cgroup. Returns what
    /// stage 2 asks it by, whose end is its end as well.
    pub fn fork_hook_runner(create: &Create, launch: BorrowedFd<'_>) -> Result<(OwnedFd, Child)> {
        const STAGE: &str = "clone who runs hooks";
        let (ours, theirs) = socket::pair().or_fail(STAGE)?;
        match fork(Birth::default()).or_fail(STAGE)? {
            Forked::Parent(child) => Ok((ours, child)),
            Forked::Child => runner::run(create, launch, theirs.as_fd()),
        }
    }

    /// Runs the hooks of a container that runs or has run. `false`: there is nothing to wait for.
    pub fn begin_hooks(&mut self, moment: Moment) -> bool {
        let Some(container) = self.container.as_mut() else { return false };
        if !container.create.hooks || container.foreign.is_some() {
            return false;
        }
        let (create, pid) = (&container.create, container.created.pid);
        let pid = (moment == Moment::Poststart).then_some(pid);
        match fork(Birth::default()) {
            Ok(Forked::Parent(child)) => {
                container.hook = Some(child);
                true
            }
            Ok(Forked::Child) => later::run(&create.id, &create.bundle, moment, pid),
            Err(error) => {
                self.tell(Event::Warning { text: format!("run {} hooks: {error}", moment.name()) });
                false
            }
        }
    }

    /// They are through; what failed is told.
    pub fn hooks_ended(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        let path = container.create.bundle.join(later::WARNINGS);
        let asked = container.asked.take_if(|_| matches!(container.stage, Stage::Running));
        let started_at_ns = container.started_at_ns;
        let said = read_end(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        for text in said.lines().map(str::to_owned) {
            self.tell(Event::Warning { text });
        }
        if let Some(asked) = asked {
            self.answer(asked, Answer::Started { started_at_ns });
        }
    }

    /// The hooks of the end. `true`: there is nothing to wait for.
    pub fn poststop_is_over(&mut self) -> bool {
        let Some(container) = self.container.as_mut() else { return true };
        if std::mem::replace(&mut container.stopped, true) {
            return true;
        }
        container.deadline = container.deadline.max(deadline(POSTSTOP_LIMIT));
        !self.begin_hooks(Moment::Poststop)
    }
}
