//! One stream of the container's output: what is read of it goes to the log and to those who read along.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_sys::pages::Pages;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::clients::Clients;
use super::clock;
use super::file::LogFile;
use super::lines::Lines;
use super::records::{Records, Stream};

/// Read at once. A pipe holds 64 KiB; more would only be touched by a flood.
pub const CHUNK: usize = 16 * 1024;

/// A pipe, or the master of a terminal.
#[derive(Debug)]
pub struct Source {
    fd: OwnedFd,
    /// The stream it carries: standard output or standard error.
    pub stream: Stream,
    lines: Lines,
    /// Its end has not come yet.
    pub open: bool,
    chunk: Pages,
    /// Length of the data in the chunk while some client has not received all of it; otherwise 0.
    pub held: usize,
    /// Of a terminal: tells of its changes alone.
    edge: Option<OwnedFd>,
    /// Nobody had the terminal's other end open when it was last read.
    deserted: bool,
}

/// Tells when something happens to a terminal. While nobody has its other end open, poll(2) reports a hang-up for ever;
/// an edge comes only when somebody writes to it or lets go of it.
fn changes_of(master: &OwnedFd) -> std::io::Result<OwnedFd> {
    let edge = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&edge, master, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
    Ok(edge)
}

impl Source {
    /// The read end of a pipe.
    pub fn pipe(fd: OwnedFd, stream: Stream) -> std::io::Result<Self> {
        Self::new(fd, stream, None)
    }

    /// The master of a terminal: one stream.
    pub fn terminal(master: OwnedFd) -> std::io::Result<Self> {
        let edge = changes_of(&master)?;
        Self::new(master, Stream::Stdout, Some(edge))
    }

    fn new(fd: OwnedFd, stream: Stream, edge: Option<OwnedFd>) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            stream,
            lines: Lines::default(),
            open: true,
            chunk: Pages::new(CHUNK),
            held: 0,
            edge,
            deserted: false,
        })
    }

    /// Descriptor to poll: it is readable when there is something to read.
    pub fn watched(&self) -> BorrowedFd<'_> {
        match &self.edge {
            Some(edge) if self.deserted => edge.as_fd(),
            _ => self.fd.as_fd(),
        }
    }

    /// One read: the other stream is to have its turn. `over`: the container has ended. Returns how much was read.
    pub fn read(
        &mut self,
        records: &mut Records,
        log: &mut Option<LogFile>,
        clients: &mut Clients,
        over: bool,
    ) -> usize {
        if let Some(edge) = self.edge.as_ref().filter(|_| self.deserted) {
            // Before the read, so that what comes after it is told of again.
            let mut events = [MaybeUninit::uninit(); 1];
            let _ = epoll::wait(edge, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        }
        let read = rustix::io::read(&self.fd, &mut *self.chunk);
        // A terminal says so when nobody has its other end open. Whoever opens it next is to be heard as well: daemons
        // open /dev/console for each line, others close their stdio for a moment. Only the container's end is the end.
        self.deserted = read == Err(Errno::IO) && self.edge.is_some();
        let len = match read {
            Err(Errno::AGAIN | Errno::INTR) => return 0,
            Err(Errno::IO) if self.deserted && !over => return 0,
            Ok(0) | Err(_) => {
                self.open = false;
                let stamp = clock::stamp(clock::now_ns());
                self.end(&stamp, records, log);
                return 0;
            }
            Ok(len) => len,
        };
        let stamp = clock::stamp(clock::now_ns());
        let stream = self.stream;
        self.lines.feed(&self.chunk[..len], |tag, parts| records.push(log, &stamp, stream, tag, parts));
        if clients.begin(stream) {
            self.held = len;
            self.deliver(clients);
        }
        len
    }

    /// Gives memory back that a burst needed.
    pub fn give_back(&mut self) {
        self.lines.give_back();
        self.chunk.give_back(self.held);
    }

    /// Gives those who read along what they have not got yet.
    pub fn deliver(&mut self, clients: &mut Clients) {
        if self.held > 0 && clients.deliver(self.stream, &self.chunk[..self.held]) {
            self.held = 0;
        }
    }

    /// A line that has no end will get none.
    pub fn end(&mut self, stamp: &[u8], records: &mut Records, log: &mut Option<LogFile>) {
        let stream = self.stream;
        self.lines.end(|tag, parts| records.push(log, stamp, stream, tag, parts));
    }
}
