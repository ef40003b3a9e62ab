//! Who reads the container's output beside the log.
//!
//! A client is one or two pipes. What the pump has read goes into the log first and then to every client, and the next
//! read waits until all of them have it: a slow client slows the container as a slow terminal would, and no byte is kept
//! for it but the one chunk. One that takes nothing for [`PATIENCE`], with its pipe full, is cut off. Nothing in here
//! allocates or frees on the pump's thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::records::Stream;

/// Most clients at once.
pub const MOST: usize = 64;
/// How long a client may take nothing while its pipe is full.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who reads along.
#[derive(Debug)]
pub struct Client {
    id: u64,
    outs: [Out; 2],
}

#[derive(Debug, Default)]
struct Out {
    pipe: Option<OwnedFd>,
    /// Bytes of the source's chunk that it has.
    sent: usize,
    /// Since when it takes nothing.
    stuck: Option<Instant>,
}

impl Client {
    /// From the write ends of its pipes, stdout and stderr.
    ///
    /// # Errors
    /// Of ioctl(FIONBIO).
    pub fn new(id: u64, pipes: [Option<OwnedFd>; 2]) -> rustix::io::Result<Self> {
        for pipe in pipes.iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { id, outs: pipes.map(|pipe| Out { pipe, ..Out::default() }) })
    }
}

/// One that has left.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its number.
    pub id: u64,
    /// Why the pump let it go; `None`: it left by itself.
    pub reason: Option<String>,
}

/// Between the control loop and the pump. Locked for a few moves only.
#[derive(Debug)]
pub struct Mail(Mutex<Letters>);

#[derive(Debug)]
struct Letters {
    new: Vec<Client>,
    gone: Vec<(u64, bool)>,
    attached: usize,
}

impl Default for Mail {
    /// With all the room that it will ever need.
    fn default() -> Self {
        let (new, gone) = (Vec::with_capacity(MOST), Vec::with_capacity(MOST));
        Self(Mutex::new(Letters { new, gone, attached: 0 }))
    }
}

impl Mail {
    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Control: a new one. `false`: there are too many.
    pub fn put(&self, client: Client) -> bool {
        let mut letters = self.lock();
        if letters.attached >= MOST {
            return false;
        }
        letters.attached += 1;
        letters.new.push(client);
        true
    }

    /// Control: who has left.
    pub fn take_gone(&self) -> Vec<Gone> {
        let mut letters = self.lock();
        letters.attached -= letters.gone.len();
        let reason = |cut| {
            let seconds = PATIENCE.as_secs();
            bool::then(cut, || {
                format!(
                    "nothing was read for {seconds} s: the session is cut off, so that the container can go on"
                )
            })
        };
        letters.gone.drain(..).map(|(id, cut)| Gone { id, reason: reason(cut) }).collect()
    }
}

/// The pump's side.
#[derive(Debug)]
pub struct Clients {
    list: Vec<Client>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { list: Vec::with_capacity(MOST) }
    }
}

impl Clients {
    /// Takes in the new ones. They get what is read from now on.
    pub fn take_new(&mut self, mail: &Mail, held: [usize; 2]) {
        let mut letters = mail.lock();
        while let Some(mut client) = letters.new.pop() {
            for (out, held) in client.outs.iter_mut().zip(held) {
                out.sent = held;
            }
            self.list.push(client);
        }
    }

    /// A new chunk of that stream. `false`: nobody wants it.
    pub fn begin(&mut self, stream: Stream) -> bool {
        let mut wanted = false;
        for client in &mut self.list {
            let out = &mut client.outs[stream as usize];
            out.sent = 0;
            wanted |= out.pipe.is_some();
        }
        wanted
    }

    /// Gives everybody as much of the chunk as fits. `true`: all have all of it.
    pub fn deliver(&mut self, stream: Stream, chunk: &[u8]) -> bool {
        let mut all = true;
        for client in &mut self.list {
            all &= client.outs[stream as usize].deliver(chunk);
        }
        all
    }

    /// That stream is over.
    pub fn end(&mut self, stream: Stream) {
        for client in &mut self.list {
            client.outs[stream as usize].pipe = None;
        }
    }

    /// Lets those go who do not read, or if `force` whoever has not read all, and those who have left. `true`: somebody
    /// has gone.
    pub fn sweep(&mut self, mail: &Mail, held: [usize; 2], force: bool) -> bool {
        let (before, now) = (self.list.len(), Instant::now());
        let mut at = 0;
        while let Some(client) = self.list.get_mut(at) {
            let cut = client.outs.iter().zip(held).any(|(out, held)| {
                let late = out.stuck.is_some_and(|since| now.duration_since(since) >= PATIENCE);
                out.pipe.is_some() && out.sent < held && (late || force)
            });
            if cut || client.outs.iter().all(|out| out.pipe.is_none()) {
                let client = self.list.swap_remove(at);
                mail.lock().gone.push((client.id, cut));
            } else {
                at += 1;
            }
        }
        before != self.list.len()
    }

    /// Calls `each` with every pipe, and what to wait for: room, or nothing, which still tells of a reader that is gone.
    pub fn watch<'a>(&'a self, held: [usize; 2], mut each: impl FnMut(BorrowedFd<'a>, PollFlags)) {
        for client in &self.list {
            for (out, held) in client.outs.iter().zip(held) {
                if let Some(pipe) = &out.pipe {
                    let flags = if out.sent < held { PollFlags::OUT } else { PollFlags::empty() };
                    each(pipe.as_fd(), flags);
                }
            }
        }
    }

    /// Drops the pipes whose reader is gone: `dead` tells of the pipes in the order of [`Clients::watch`].
    pub fn drop_dead(&mut self, mut dead: impl FnMut() -> bool) {
        for out in self.list.iter_mut().flat_map(|client| &mut client.outs) {
            if out.pipe.is_some() && dead() {
                out.pipe = None;
            }
        }
    }

    /// When the first of them is cut off.
    pub fn deadline(&self) -> Option<Instant> {
        let stuck = self.list.iter().flat_map(|client| &client.outs).filter_map(|out| out.stuck);
        stuck.min().map(|since| since + PATIENCE)
    }
}

impl Out {
    fn deliver(&mut self, chunk: &[u8]) -> bool {
        while let (Some(pipe), Some(rest @ [_, ..])) = (&self.pipe, chunk.get(self.sent..)) {
            match rustix::io::write(pipe, rest) {
                Ok(len) => {
                    self.sent += len;
                    self.stuck = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return false;
                }
                Err(_) => self.pipe = None,
            }
        }
        self.stuck = None;
        true
    }
}
