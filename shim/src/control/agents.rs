//! Who is connected, and what could not be told them yet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_pod::channel::{self, ChannelError};
use holdfast_pod::protocol::{Answer, Event, Packet};

use crate::fault::internal;

/// Most packets that wait for an agent that reads slowly: hundreds of execs may end at once, and a socket holds fewer.
const MOST_WAITING: usize = 16 * 1024;

/// Most warnings that are kept while no agent is there.
const MOST_UNHEARD: usize = 16;
/// The number of the connection that we are born with.
const FIRST: u32 = 0;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which connection.
    pub agent: u32,
    /// The call's number.
    pub seq: u64,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or nobody is there to have it.
    Yes,
    /// It waits for room: call [`Agents::flush`] when there is some.
    Later(u32),
    /// The connection is of no use any more.
    Lost(u32),
}

#[derive(Debug)]
struct Agent {
    number: u32,
    connection: OwnedFd,
    waiting: VecDeque<(Packet, Option<OwnedFd>)>,
}

/// Connections, the newest last.
#[derive(Debug, Default)]
pub struct Agents {
    list: Vec<Agent>,
    next: u32,
    /// Warnings of a time without an agent, for the next one.
    unheard: Vec<Event>,
}

impl Agents {
    /// Takes a connection and numbers it.
    pub fn add(&mut self, connection: OwnedFd) -> u32 {
        let number = self.next;
        self.next += 1;
        let waiting = self.unheard.drain(..).map(|event| (Packet::Event(event), None)).collect();
        self.list.push(Agent { number, connection, waiting });
        number
    }

    /// The connection of this number.
    pub fn find(&self, agent: u32) -> Option<BorrowedFd<'_>> {
        self.list.iter().find(|one| one.number == agent).map(|one| one.connection.as_fd())
    }

    /// Closes it. `true`: it was the one that we were born with.
    pub fn remove(&mut self, agent: u32) -> bool {
        let before = self.list.len();
        self.list.retain(|one| one.number != agent);
        agent == FIRST && before != self.list.len()
    }

    /// Nobody is there to be told.
    fn keep(&mut self, event: Event) {
        if matches!(event, Event::Warning { .. }) && self.unheard.len() < MOST_UNHEARD {
            self.unheard.push(event);
        }
    }

    /// Answers.
    pub fn answer(&mut self, asked: Asked, answer: Answer, passed: Option<OwnedFd>) -> Sent {
        let Some(agent) = self.list.iter_mut().find(|one| one.number == asked.agent) else {
            return Sent::Yes;
        };
        agent.send(Packet::Answer { seq: asked.seq, answer }, passed)
    }

    /// Tells the newest of an event.
    pub fn tell(&mut self, event: Event) -> Sent {
        if let Some(agent) = self.list.last_mut() {
            return agent.send(Packet::Event(event), None);
        }
        self.keep(event);
        Sent::Yes
    }

    /// Something waits for room.
    pub fn is_behind(&self, agent: u32) -> bool {
        self.list.iter().any(|one| one.number == agent && !one.waiting.is_empty())
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self, number: u32) -> Sent {
        let Some(agent) = self.list.iter_mut().find(|one| one.number == number) else { return Sent::Yes };
        while let Some((packet, passed)) = agent.waiting.front() {
            match agent.send_now(packet, passed.as_ref()) {
                Ok(()) => drop(agent.waiting.pop_front()),
                Err(ChannelError::WouldBlock) => return Sent::Later(number),
                Err(_) => return Sent::Lost(number),
            }
        }
        Sent::Yes
    }
}

impl Agent {
    fn send_now(&self, packet: &Packet, passed: Option<&OwnedFd>) -> Result<(), ChannelError> {
        match channel::send(&self.connection, packet, passed.map(AsFd::as_fd).as_slice()) {
            Err(e @ ChannelError::TooLong { .. }) if let Packet::Answer { seq, .. } = packet => {
                let answer = Answer::Failed(internal("answer", e.to_string()));
                channel::send(&self.connection, &Packet::Answer { seq: *seq, answer }, &[])
            }
            other => other,
        }
    }

    fn send(&mut self, packet: Packet, passed: Option<OwnedFd>) -> Sent {
        if self.waiting.is_empty() {
            match self.send_now(&packet, passed.as_ref()) {
                Ok(()) => return Sent::Yes,
                Err(ChannelError::WouldBlock) => {}
                Err(_) => return Sent::Lost(self.number),
            }
        }
        if self.waiting.len() >= MOST_WAITING {
            return Sent::Lost(self.number);
        }
        self.waiting.push_back((packet, passed));
        Sent::Later(self.number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_sys::socket;

    #[test]
    fn what_finds_no_room_is_told_later_and_in_order() {
        let (ours, theirs) = socket::pair().unwrap();
        let mut agents = Agents::default();
        let number = agents.add(ours);
        let event = |exec_id| Event::ExecExited { exec_id, exit_code: 0, timed_out: false };
        let sent: Vec<Sent> = (0..2000).map(|id| agents.tell(event(id))).collect();
        assert_eq!((sent[0], sent[1999]), (Sent::Yes, Sent::Later(number)));
        let mut seen = 0;
        let mut buffer = channel::buffer();
        while seen < 2000 {
            match channel::recv::<Packet>(&theirs, &mut buffer) {
                Ok(Some((Packet::Event(Event::ExecExited { exec_id, .. }), _))) => {
                    assert_eq!(exec_id, seen);
                    seen += 1;
                }
                Err(ChannelError::WouldBlock) => assert_ne!(agents.flush(number), Sent::Lost(number)),
                other => panic!("{other:?}"),
            }
        }
        drop(theirs);
        assert_eq!(agents.tell(event(1)), Sent::Lost(number));
    }

    #[test]
    fn a_warning_that_nobody_heard_waits_for_the_next_agent() {
        let (first, _first) = socket::pair().unwrap();
        let mut agents = Agents::default();
        let number = agents.add(first);
        assert!(agents.remove(number) && !agents.remove(number));
        for number in 0..100 {
            agents.tell(Event::Warning { text: number.to_string() });
            agents.tell(Event::OomKilled);
        }
        let (ours, theirs) = socket::pair().unwrap();
        let number = agents.add(ours);
        assert!(agents.is_behind(number));
        assert_eq!(agents.flush(number), Sent::Yes);
        let mut buffer = channel::buffer();
        for expected in 0..MOST_UNHEARD {
            let packet = channel::recv::<Packet>(&theirs, &mut buffer).unwrap().unwrap().0;
            assert!(matches!(packet, Packet::Event(Event::Warning { text }) if text == expected.to_string()));
        }
        assert!(matches!(channel::recv::<Packet>(&theirs, &mut buffer), Err(ChannelError::WouldBlock)));
        assert!(!agents.remove(number), "it is not the first");
    }
}
