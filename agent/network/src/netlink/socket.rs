//! A blocking netlink socket, in the network namespace of the thread that opened it.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, sendto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::message::{Message, messages};

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// NLM_F_DUMP_INTR: the table changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
/// The kernel answers from within sendto; only the wait for RTNL before a dump can take long.
const LIMIT: Duration = Duration::from_secs(10);
/// Room for one answer; a link with all its attributes takes about 2 KiB.
const RECEIVE: usize = 8 * 1024;
/// Room for a part of a dump: the kernel makes them as large as what was read into before, up to 32 KiB.
const RECEIVE_DUMP: usize = 32 * 1024;
const DUMP_TRIES: usize = 10;

/// Why a netlink request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel's or the socket's errno.
    #[error("{0}")]
    Errno(Errno),
    /// A message of a batch was refused.
    #[error("message {index} of the batch: {errno}")]
    Batch {
        /// Which one, from 0.
        index: usize,
        /// Why.
        errno: Errno,
    },
    /// No answer within the limit.
    #[error("no answer from the kernel within 10 s")]
    NoAnswer,
    /// The answer made no sense.
    #[error("unexpected answer from the kernel")]
    Garbled,
}

impl NetlinkError {
    /// The errno, if that is what it was.
    pub(crate) fn errno(self) -> Option<Errno> {
        match self {
            Self::Errno(errno) | Self::Batch { errno, .. } => Some(errno),
            Self::NoAnswer | Self::Garbled => None,
        }
    }

    /// Whether the object was not there (for teardown, which is glad of it).
    pub(crate) fn is_absent(self) -> bool {
        matches!(self.errno(), Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL))
    }
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        // A receive that runs into SO_RCVTIMEO.
        if errno == Errno::AGAIN { Self::NoAnswer } else { Self::Errno(errno) }
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// A netlink socket of this thread's network namespace; it stays there when the thread moves on.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// NETLINK_ROUTE.
    pub(crate) fn route() -> Result<Self> {
        Self::open(None, 0, SocketFlags::CLOEXEC)
    }

    /// NETLINK_NETFILTER.
    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(Some(netlink::NETFILTER), 0, SocketFlags::CLOEXEC)
    }

    /// NETLINK_ROUTE that hears of links which come and go; non-blocking, for a reactor.
    pub(crate) fn link_events() -> Result<Self> {
        const RTMGRP_LINK: u32 = 1;
        failpoint("network.links.listen")?;
        Self::open(None, RTMGRP_LINK, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// NETLINK_ROUTE is number 0, for which rustix has `None`.
    fn open(protocol: Option<rustix::net::Protocol>, groups: u32, flags: SocketFlags) -> Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(LIMIT))?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE] })
    }

    /// Sends a request and waits for its acknowledgement. `effect` is its failpoint.
    pub(crate) fn request(&mut self, effect: &'static str, message: Message) -> Result<()> {
        failpoint(effect)?;
        let sequence = self.next();
        self.send(&message.flags(REQUEST | ACK).finish(sequence))?;
        self.read(sequence, |_, _| ())
    }

    /// Sends a request that has one object as its answer.
    pub(crate) fn get(&mut self, message: Message) -> Result<Vec<u8>> {
        let sequence = self.next();
        self.send(&message.flags(REQUEST | ACK).finish(sequence))?;
        let mut answer = None;
        self.read(sequence, |_, payload| answer = Some(payload.to_vec()))?;
        answer.ok_or(NetlinkError::Garbled)
    }

    /// Reads a whole table; `visit` gets type and payload of each entry. Starts again when it changed meanwhile.
    pub(crate) fn dump(&mut self, message: &Message) -> Result<Vec<Vec<u8>>> {
        self.buffer.resize(RECEIVE_DUMP, 0);
        for _ in 0..DUMP_TRIES {
            let sequence = self.next();
            self.send(&message.clone().flags(REQUEST | DUMP).finish(sequence))?;
            let (mut entries, mut interrupted) = (Vec::new(), false);
            self.read(sequence, |flags, payload| {
                interrupted |= flags & DUMP_INTERRUPTED != 0;
                entries.push(payload.to_vec());
            })?;
            if !interrupted {
                return Ok(entries);
            }
        }
        Err(NetlinkError::Errno(Errno::INTR))
    }

    /// Sends several messages as one nfnetlink transaction: all of them or none.
    pub(crate) fn transaction(&mut self, batch: Vec<Message>) -> Result<()> {
        const BATCH_BEGIN: u16 = 16;
        const BATCH_END: u16 = 17;
        const NFTABLES: [u8; 4] = [0, 0, 0, 10];
        failpoint("network.nftables.commit")?;
        let begin = self.next();
        let mut bytes = Message::new(BATCH_BEGIN, REQUEST, &NFTABLES).finish(begin);
        let last = batch.len().saturating_sub(1);
        for (index, message) in batch.into_iter().enumerate() {
            let sequence = self.next();
            // Only the last one asks for an acknowledgement: its answer comes after the errors of the others. Before
            // 6.10 the end of a batch acknowledges nothing.
            let flags = if index == last { REQUEST | ACK } else { REQUEST };
            bytes.extend(message.flags(flags).finish(sequence));
        }
        let end = self.next();
        bytes.extend(Message::new(BATCH_END, REQUEST, &NFTABLES).finish(end));
        self.send(&bytes)?;
        self.read_transaction(begin, end)
    }

    /// Waits for nothing: whether something was there to read. Used by the reactor to empty the socket; ENOBUFS means
    /// that events were lost, which is an event as well.
    pub(crate) fn drain(&mut self) -> bool {
        let mut any = false;
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::INTR) => {}
                Err(_) => return any,
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| sendto(&self.fd, bytes, SendFlags::empty(), &kernel))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<usize> {
        let Self { fd, buffer, .. } = self;
        let (_, length) = rustix::io::retry_on_intr(|| recv(&*fd, &mut buffer[..], RecvFlags::empty()))?;
        Ok(length.min(buffer.len()))
    }

    fn read(&mut self, sequence: u32, mut visit: impl FnMut(u16, &[u8])) -> Result<()> {
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                match message.kind {
                    MSG_ERROR | MSG_DONE => return status(message.payload),
                    _ => visit(message.flags, message.payload),
                }
            }
        }
    }

    /// The first error of the messages between `begin` and `end`, or the acknowledgement of the last. An error of the
    /// commit carries the sequence number of the beginning.
    fn read_transaction(&mut self, begin: u32, end: u32) -> Result<()> {
        loop {
            let length = self.receive()?;
            for message in messages(&self.buffer[..length]).filter(|message| message.kind == MSG_ERROR) {
                let index = message.sequence.wrapping_sub(begin);
                if index >= end.wrapping_sub(begin) {
                    continue;
                }
                let answer = status(message.payload);
                match (answer, index) {
                    (Err(NetlinkError::Errno(errno)), 1..) => {
                        return Err(NetlinkError::Batch { index: index as usize - 1, errno });
                    }
                    (Err(error), _) => return Err(error),
                    (Ok(()), _) if message.sequence.wrapping_add(1) == end => return Ok(()),
                    (Ok(()), _) => {}
                }
            }
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn failpoint(effect: &'static str) -> Result<()> {
    holdfast_sys::failpoint::at(effect)
        .map_err(|error| NetlinkError::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// The errno at the start of NLMSG_ERROR and NLMSG_DONE; 0 is the acknowledgement.
fn status(payload: &[u8]) -> Result<()> {
    match payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) if code < 0 => Err(NetlinkError::Errno(Errno::from_raw_os_error(-code))),
        Some(_) => Ok(()),
        None => Err(NetlinkError::Garbled),
    }
}
