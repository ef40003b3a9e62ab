//! The long-lived part of the shim: one thread, one epoll, nothing in it that may wait.
//!
//! ```text
//!   Building --Ready--> Gate --Start--> Opening --execve--> Running
//!      |                  |                |                   |
//!      | fault            +---- init ends -+-------------------+
//!      v                                   v
//!   Undoing --children reaped--> (end)   Draining --log complete, record written--> (end)
//! ```
//!
//! Nothing that may block on a disk is done in this loop: the stages open the log and the room for the exit
//! record, the pump writes both, a child removes them if there never was a container. Killing what a
//! container leaves goes on in rounds, between which the loop does the rest of its work.
//!
//! Every state but the last two can also go to Undoing: before Commit when the first agent's connection closes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use holdfast_pod::channel;
use holdfast_pod::protocol::{Answer, Event, MAX_MESSAGE, Packet, SOCKET_NAME};
use holdfast_sys::caps::Bounding;
use holdfast_sys::pages::Pages;
use holdfast_sys::{process, socket};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::fault::{OrFail, Result};

mod agents;
mod attach;
mod calls;
mod cgroup;
mod container;
mod create;
mod exec;
mod exit;
mod foreign;
mod foreign_exec;
mod hooks;
mod poll;
mod tree;

use agents::{Agents, Asked, Sent};
use container::Container;
use exec::Exec;
use foreign::Stray;
use poll::{Poll, Token};

/// Pause in accepting connections after a failure for lack of descriptors.
const DEAF: Duration = Duration::from_secs(1);

/// Serves the agent on descriptor 0 and everybody who connects later, until the container is over. `warnings` are for the
/// agent's log: nobody reads our standard error.
///
/// # Errors
/// Failures that keep it from beginning, or from going on. The agent has been told.
pub fn serve(warnings: Vec<String>) -> Result<()> {
    let first = take_first_connection()?;
    let mut shim = Shim::new().inspect_err(|failure| {
        let event = Event::Warning { text: failure.to_string() };
        let _ = channel::send(&first, &Packet::Event(event), &[]);
    })?;
    let first = shim.agents.add(first);
    shim.watch_agent(first);
    for text in warnings {
        shim.warn(text);
    }
    while !shim.over {
        if let Err(failure) = shim.turn() {
            shim.warn(failure.to_string());
            return Err(failure);
        }
    }
    shim.leave();
    Ok(())
}

/// Descriptor 0, moved out of the way: a child's stdin must never be the agent's socket.
fn take_first_connection() -> Result<OwnedFd> {
    const STAGE: &str = "take the agent's connection from descriptor 0";
    let connection = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).or_fail(STAGE)?;
    let null =
        openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).or_fail("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).or_fail(STAGE)?;
    Ok(connection)
}

/// The process.
struct Shim {
    poll: Poll,
    run_dir: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    agents: Agents,
    /// For what comes in; pages that no message has needed cost nothing.
    buffer: Pages,
    container: Option<Container>,
    execs: Vec<Exec>,
    /// Children that ended before it was known what they are.
    strays: Vec<Stray>,
    serial: u32,
    /// Nobody is let in until then.
    deaf_until: Option<Instant>,
    bounding: Bounding,
    over: bool,
}

impl Shim {
    fn new() -> Result<Self> {
        let signals = take_signals()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let run_dir = openat(CWD, ".", flags, Mode::empty()).or_fail("open run directory")?;
        let listener = socket::listen_at(run_dir.as_fd(), SOCKET_NAME).or_fail("listen")?;
        rustix::io::ioctl_fionbio(&listener, true).or_fail("listen")?;
        let poll = Poll::new().or_fail("epoll")?;
        poll.add(&listener, Token::Listener).or_fail("epoll")?;
        poll.add(&signals, Token::Signals).or_fail("epoll")?;
        Ok(Self {
            poll,
            run_dir,
            listener,
            signals,
            agents: Agents::default(),
            buffer: Pages::new(MAX_MESSAGE),
            container: None,
            execs: Vec::new(),
            strays: Vec::new(),
            serial: 0,
            deaf_until: None,
            bounding: Bounding::read(),
            over: false,
        })
    }

    /// Waits once and does what there is to do.
    fn turn(&mut self) -> Result<()> {
        let limit = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let mut children = false;
        for token in self.poll.wait(limit).or_fail("epoll")? {
            match token {
                Token::Listener => self.accept(),
                Token::Signals => {
                    while let Ok(Some(_)) = self.signals.read_signal() {}
                    children = true;
                }
                Token::Agent(agent) => self.agent_speaks(agent),
                Token::Link => self.link_speaks(),
                Token::ExecLink(serial) => self.exec_link_speaks(serial),
                Token::Pump => self.pump_speaks(),
                Token::Oom => self.look_for_oom(),
            }
        }
        if children {
            self.reap();
        }
        self.check_deadlines();
        self.check_end();
        Ok(())
    }

    fn sweep_again(&mut self, now: Instant) {
        let Some(container) = self.container.as_mut() else { return };
        let Some(sweep) = container.sweep.take_if(|sweep| sweep.next <= now) else { return };
        if !container.sweep(sweep) {
            self.warn("processes of the container do not die, though they were killed".to_owned());
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let execs = self.execs.iter().filter_map(|exec| exec.deadline);
        let container = self.container.iter().flat_map(|container| {
            [container.deadline, container.sweep.as_ref().map(|sweep| sweep.next)].into_iter().flatten()
        });
        execs.chain(container).chain(self.deaf_until).min()
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        if self.deaf_until.is_some_and(|at| at <= now) {
            self.listen_again();
        }
        if self.container.as_ref().is_some_and(|container| container.deadline.is_some_and(|at| at <= now)) {
            self.container_is_late();
        }
        self.sweep_again(now);
        let late: Vec<u32> = self
            .execs
            .iter()
            .filter(|exec| exec.deadline.is_some_and(|at| at <= now))
            .map(|exec| exec.serial)
            .collect();
        for serial in late {
            self.exec_is_late(serial);
        }
    }

    fn accept(&mut self) {
        loop {
            match socket::accept(&self.listener) {
                Ok(connection) => {
                    let agent = self.agents.add(connection);
                    self.watch_agent(agent);
                }
                Err(e) if e.is(Errno::CONNABORTED) => {}
                Err(e) if e.is_would_block() => return,
                // Out of descriptors: who connects stays in the queue, and would be told of again and again.
                Err(_) => {
                    self.poll.remove(&self.listener);
                    self.deaf_until = deadline(DEAF);
                    return;
                }
            }
        }
    }

    fn listen_again(&mut self) {
        self.deaf_until = self.poll.add(&self.listener, Token::Listener).err().and_then(|_| deadline(DEAF));
    }

    fn watch_agent(&mut self, agent: u32) {
        let watched = self.agents.find(agent).map(|fd| self.poll.add(fd, Token::Agent(agent)));
        if !matches!(watched, Some(Ok(()))) {
            self.agents.remove(agent);
        } else if self.agents.is_behind(agent) {
            self.watch_room(agent, true);
        }
    }

    /// What waits for room goes first. Then one packet; the next ones are told of again.
    fn agent_speaks(&mut self, agent: u32) {
        if self.agents.is_behind(agent) {
            match self.agents.flush(agent) {
                Sent::Yes => self.watch_room(agent, false),
                Sent::Later(_) => {}
                Sent::Lost(agent) => return self.agent_is_gone(agent),
            }
        }
        let Some(fd) = self.agents.find(agent) else { return };
        match channel::recv(fd, &mut self.buffer) {
            Ok(Some((call, fds))) => self.obey(agent, call, fds),
            Ok(None) => self.agent_is_gone(agent),
            Err(channel::ChannelError::WouldBlock) => {}
            Err(e) => self.agent_is_strange(agent, &e),
        }
    }

    /// Refuses a call that cannot be understood; without a number to answer, the connection is given up.
    fn agent_is_strange(&mut self, agent: u32, error: &channel::ChannelError) {
        if let channel::ChannelError::Decode { len, source } = error {
            let call = self.buffer[..*len].to_vec();
            if self.refuse(agent, &call, &source.to_string()) {
                return;
            }
        }
        // Without its number nobody can be answered; the agent sees the end and connects anew.
        self.warn(format!("what the agent says cannot be understood: {error}"));
        self.agent_is_gone(agent);
    }

    fn agent_is_gone(&mut self, agent: u32) {
        if let Some(fd) = self.agents.find(agent) {
            self.poll.remove(fd);
        }
        let first = self.agents.remove(agent);
        self.end_execs_of(agent);
        if first {
            match self.container.as_ref().map(|container| container.committed) {
                None => self.over = true,
                Some(false) => self.undo(None),
                Some(true) => {}
            }
        }
    }

    fn answer(&mut self, asked: Asked, answer: Answer) {
        self.answer_with(asked, answer, None);
    }

    /// An answer that brings a descriptor.
    fn answer_with(&mut self, asked: Asked, answer: Answer, passed: Option<OwnedFd>) {
        let sent = self.agents.answer(asked, answer, passed);
        self.see_to(sent);
    }

    fn tell(&mut self, event: Event) {
        let sent = self.agents.tell(event);
        self.see_to(sent);
    }

    /// Something that no answer can say, for the agent's log.
    fn warn(&mut self, text: String) {
        self.tell(Event::Warning { text });
    }

    fn see_to(&mut self, sent: Sent) {
        match sent {
            Sent::Yes => {}
            Sent::Later(agent) => self.watch_room(agent, true),
            Sent::Lost(agent) => self.agent_is_gone(agent),
        }
    }

    fn watch_room(&self, agent: u32, wanted: bool) {
        if let Some(fd) = self.agents.find(agent) {
            // It fails only for one that is not watched, and that is on its way out.
            let _ = self.poll.watch_room(fd, Token::Agent(agent), wanted);
        }
    }

    /// The socket goes last: while it is there, the shim is.
    fn leave(&self) {
        let _ = unlinkat(&self.run_dir, SOCKET_NAME, AtFlags::empty());
    }
}

/// Everything that could end us by accident is blocked and read, and then ignored; SIGCHLD is what we wait for.
fn take_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        set.add(signal);
    }
    set.thread_block().map_err(std::io::Error::from).or_fail("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(std::io::Error::from)
        .or_fail("signalfd")
}

/// A point in time that far from now; `None`: so far that it never comes.
fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// Gives back what was needed only for a while.
fn shrink() {
    process::trim_heap();
}
