//! Who is connected.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_pod::channel::{self, ChannelError};
use holdfast_pod::protocol::{Answer, Event, Packet};

use crate::fault::internal;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which connection.
    pub agent: u32,
    /// The call's number.
    pub seq: u64,
}

/// Connections, the newest last.
#[derive(Debug, Default)]
pub struct Agents {
    list: Vec<(u32, OwnedFd)>,
    next: u32,
}

impl Agents {
    /// Takes a connection and numbers it.
    pub fn add(&mut self, connection: OwnedFd) -> u32 {
        let number = self.next;
        self.next += 1;
        self.list.push((number, connection));
        number
    }

    /// The connection of this number.
    pub fn find(&self, agent: u32) -> Option<BorrowedFd<'_>> {
        self.list.iter().find(|(number, _)| *number == agent).map(|(_, fd)| fd.as_fd())
    }

    /// Closes it.
    pub fn remove(&mut self, agent: u32) {
        self.list.retain(|(number, _)| *number != agent);
    }

    /// It is the one that we were born with.
    pub fn is_first(agent: u32) -> bool {
        agent == 0
    }

    /// Answers. `false`: the connection is of no use any more.
    pub fn answer(&self, asked: Asked, answer: Answer, passed: Option<BorrowedFd<'_>>) -> bool {
        let Some(fd) = self.find(asked.agent) else { return true };
        let packet = |answer| Packet::Answer { seq: asked.seq, answer };
        match channel::send(fd, &packet(answer), passed.as_slice()) {
            Ok(()) => true,
            Err(e @ ChannelError::TooLong { .. }) => {
                let failure = internal("answer", e.to_string());
                channel::send(fd, &packet(Answer::Failed(failure)), &[]).is_ok()
            }
            Err(_) => false,
        }
    }

    /// Tells the newest of an event. Its number, if the connection is of no use any more.
    pub fn tell(&self, event: Event) -> Result<(), u32> {
        let Some((number, fd)) = self.list.last() else { return Ok(()) };
        channel::send(fd, &Packet::Event(event), &[]).map_err(|_| *number)
    }
}
