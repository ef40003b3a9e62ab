//! Attach: copies of the container's output, and its stdin.

use std::os::fd::OwnedFd;

use holdfast_pod::protocol::{Answer, Attach, Event, FdRole};

use super::Shim;
use super::agents::Asked;
use super::calls::{Passed, wrong_phase};
use super::container::Stage;
use crate::fault::{OrFail, Result};
use crate::pump::clients::MOST;
use crate::pump::{Client, Gone};

const STAGE: &str = "attach";

impl Shim {
    /// Gives the pump the client's pipes, and the client the container's stdin.
    pub fn attach(&mut self, asked: Asked, attach: &Attach, mut passed: Passed) -> Result<()> {
        let pipes = [passed.take(FdRole::Stdout), passed.take(FdRole::Stderr)];
        let container = self.container_in(STAGE, |stage| matches!(stage, Stage::Running))?;
        let pump = container.pump.as_ref().ok_or_else(|| wrong_phase(STAGE, "it has no output"))?;
        if pipes.iter().any(Option::is_some) {
            let client = Client::new(attach.attach_id, pipes).or_fail(STAGE)?;
            if !pump.attach(client) {
                let text = format!("{MOST} clients are attached already: let one of them go");
                return Err(wrong_phase(STAGE, &text));
            }
        }
        let stdin: Option<OwnedFd> = match (&container.terminal, attach.stdin) {
            (_, false) => None,
            (Some(terminal), true) => Some(terminal.try_clone().or_fail(STAGE)?),
            // The first who has it, and goes, ends it.
            (None, true) if container.create.stdin_once => container.stdin.take(),
            (None, true) => container.stdin.as_ref().map(OwnedFd::try_clone).transpose().or_fail(STAGE)?,
        };
        self.answer_with(asked, Answer::Attached, stdin);
        Ok(())
    }

    /// Whom the pump has let go by itself.
    pub fn tell_of_cut(&mut self, gone: Vec<Gone>) {
        for Gone { id, reason } in gone {
            if let Some(reason) = reason {
                self.tell(Event::AttachCut { attach_id: id, reason });
            }
        }
    }
}
