//! epoll with our own names for what is waited for.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, Result};

/// What something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Somebody connects.
    Listener,
    /// A child ended, or somebody sent us a signal.
    Signals,
    /// An agent, by its number.
    Agent(u32),
    /// The container's stages.
    Link,
    /// An exec's stages, by its serial.
    ExecLink(u32),
    /// The log pump.
    Pump,
    /// The kernel killed something for its memory.
    Oom,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Agent(number) => (2, number),
            Self::Link => (3, 0),
            Self::ExecLink(number) => (4, number),
            Self::Pump => (5, 0),
            Self::Oom => (6, 0),
        };
        u64::from(kind as u32) << 32 | u64::from(number)
    }

    fn unpack(packed: u64) -> Option<Self> {
        let number = packed as u32;
        Some(match packed >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Agent(number),
            3 => Self::Link,
            4 => Self::ExecLink(number),
            5 => Self::Pump,
            6 => Self::Oom,
            _ => return None,
        })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// Waits for nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Waits for `fd` to be readable, or closed.
    pub fn add(&self, fd: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN)
    }

    /// Waits for room to write as well, or not any more.
    pub fn watch_room(&self, fd: impl AsFd, token: Token, wanted: bool) -> Result<()> {
        let room = if wanted { EventFlags::OUT } else { EventFlags::empty() };
        epoll::modify(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN | room)
    }

    /// Waits for a change of a kernfs file.
    pub fn add_change(&self, fd: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::PRI | EventFlags::ET)
    }

    /// Waits for it no longer. To be done before it is closed: a child that is just being forked has a copy, which
    /// would keep the registration alive.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits, at most `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> Result<impl Iterator<Item = Token> + use<>> {
        const AT_ONCE: usize = 16;
        let mut events = [MaybeUninit::uninit(); AT_ONCE];
        let limit = limit.map(|limit| Timespec {
            // A year is as good as for ever, and fits.
            tv_sec: limit.as_secs().min(365 * 86_400) as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut tokens = [None; AT_ONCE];
        match epoll::wait(&self.epoll, &mut events, limit.as_ref()) {
            Ok((ready, _)) => {
                for (token, event) in tokens.iter_mut().zip(ready) {
                    *token = Token::unpack(event.data.u64());
                }
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        Ok(tokens.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Agent(u32::MAX),
            Token::Link,
            Token::ExecLink(7),
            Token::Pump,
            Token::Oom,
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
