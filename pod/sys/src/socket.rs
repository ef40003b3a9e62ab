//! Unix `SOCK_SEQPACKET` sockets: one send, one packet, with descriptors.
//!
//! Sending and receiving never wait, whatever the descriptor's flags: EAGAIN is an error of its own, and who wants to
//! wait polls ([`wait_readable`], [`wait_writable`]) or uses a reactor. Sockets lie in directories that are given by
//! descriptor: the name is reached through `/proc/self/fd/N/name`, so that the 108 bytes of `sun_path` do not limit
//! how deep a directory lies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, socketpair,
};

use crate::error::{CallError, Result};
use crate::failpoint;

/// Most descriptors that [`send_packet`] and [`recv_packet`] take (the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 32;

/// A received packet.
#[derive(Debug)]
pub struct Packet {
    /// How many bytes of the buffer it has.
    pub len: usize,
    /// Its descriptors, all with O_CLOEXEC.
    pub fds: Vec<OwnedFd>,
    /// It was longer than the buffer; the rest is lost.
    pub truncated: bool,
    /// It had more descriptors than we take, or than we may open; the rest is closed.
    pub fds_truncated: bool,
}

/// Makes two connected sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    failpoint::call("sys.socketpair")?;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| CallError::new("socketpair(AF_UNIX, SOCK_SEQPACKET)", e))
}

/// Binds and listens at `name` in the directory `dir`. The socket's mode is 0600 from its first moment.
///
/// # Errors
/// EADDRINUSE if the name is there, be it a stale socket or not.
pub fn listen_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    failpoint::call("sys.bind")?;
    listen_with(new_socket()?, dir, name)
}

fn listen_with(socket: OwnedFd, dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    const BACKLOG: i32 = 16;
    let call = |what: &str| format!("{what}(fd {}, \"{name}\")", dir.as_raw_fd());
    let address = address_at(dir, name)?;
    // bind(2) gives the file the mode of the socket's own inode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| CallError::new(call("fchmod"), e))?;
    bind(&socket, &address).map_err(|e| CallError::new(call("bind"), e))?;
    listen(&socket, BACKLOG).map_err(|e| CallError::new(call("listen"), e))?;
    Ok(socket)
}

/// As [`listen_at`], a stream socket: OCI runtimes connect to one of those with a terminal.
pub fn listen_stream_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|e| CallError::new("socket(AF_UNIX, SOCK_STREAM)", e))?;
    listen_with(socket, dir, name)
}

/// Connects to `name` in the directory `dir`.
///
/// # Errors
/// ECONNREFUSED if nobody listens, EAGAIN if the listener took nobody for `limit`.
pub fn connect_at(dir: BorrowedFd<'_>, name: &str, limit: Duration) -> Result<OwnedFd> {
    let call = |what: &str| format!("{what}(fd {}, \"{name}\")", dir.as_raw_fd());
    let address = address_at(dir, name)?;
    let socket = new_socket()?;
    // A full backlog lets connect(2) wait for as long as the send time-out says.
    let limit = limit.max(Duration::from_millis(1));
    set_socket_timeout(&socket, Timeout::Send, Some(limit))
        .map_err(|e| CallError::new(call("setsockopt(SO_SNDTIMEO)"), e))?;
    connect(&socket, &address).map_err(|e| CallError::new(call("connect"), e))?;
    set_socket_timeout(&socket, Timeout::Send, None)
        .map_err(|e| CallError::new(call("setsockopt(SO_SNDTIMEO)"), e))?;
    Ok(socket)
}

/// Takes the next connection. Waits if the listener is a blocking descriptor: poll first, or set O_NONBLOCK.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd> {
    let fd = listener.as_fd();
    acceptfrom_with(fd, SocketFlags::CLOEXEC)
        .map(|(socket, _)| socket)
        .map_err(|e| CallError::new(format!("accept(fd {})", fd.as_raw_fd()), e))
}

/// Pid of the process that made the other end, or connected from it, as our pid namespace numbers it.
///
/// # Errors
/// ESRCH if that process is outside our pid namespace.
pub fn peer_pid(socket: impl AsFd) -> Result<i32> {
    let fd = socket.as_fd();
    let call = || format!("getsockopt(fd {}, SO_PEERCRED)", fd.as_raw_fd());
    // Not by rustix: a process of another namespace is 0, which its Pid cannot hold.
    let credentials = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)
        .map_err(|e| CallError::new(call(), e))?;
    match credentials.pid() {
        pid if pid > 0 => Ok(pid),
        _ => Err(CallError::new(call(), Errno::SRCH)),
    }
}

/// Sends one packet; never waits.
///
/// # Errors
/// EAGAIN if the socket's buffer is full, EMSGSIZE if it can never hold the packet, EPIPE or ECONNRESET if the peer
/// is gone, E2BIG if there are more than [`MAX_FDS`] descriptors.
pub fn send_packet(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let call = || {
        format!(
            "sendmsg(fd {}, {} bytes, {} descriptors)",
            socket.as_fd().as_raw_fd(),
            bytes.len(),
            fds.len()
        )
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.len() <= MAX_FDS;
    if !fits || !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(CallError::new(call(), Errno::TOOBIG));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // A call that never waits is not interrupted.
    let sent = sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, flags);
    sent.map(drop).map_err(|e| CallError::new(call(), e))
}

/// Receives one packet into `buffer`; never waits. `None`: the peer is gone and all that it sent has been read.
///
/// # Errors
/// EAGAIN if there is nothing.
pub fn recv_packet(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let fd = socket.as_fd();
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let len = buffer.len();
    let mut receive = || recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut control, flags);
    let received = match receive() {
        // A peer that closed without reading what we sent leaves ECONNRESET in front of what it sent itself, once: the
        // next call goes on with that.
        Err(Errno::CONNRESET) => receive(),
        other => other,
    };
    let received =
        received.map_err(|e| CallError::new(format!("recvmsg(fd {}, {len} bytes)", fd.as_raw_fd()), e))?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    Ok(Some(Packet {
        len: received.bytes,
        fds,
        truncated: received.flags.contains(ReturnFlags::TRUNC),
        fds_truncated: received.flags.contains(ReturnFlags::CTRUNC),
    }))
}

/// Waits until there is something to receive, or the end. `false`: not within `limit`.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> Result<bool> {
    wait(fd.as_fd(), PollFlags::IN, limit)
}

/// Waits until a packet can be sent. `false`: not within `limit`.
pub fn wait_writable(fd: impl AsFd, limit: Duration) -> Result<bool> {
    wait(fd.as_fd(), PollFlags::OUT, limit)
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> Result<bool> {
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(CallError::new(format!("poll(fd {}, {events:?})", fd.as_raw_fd()), e)),
        }
    }
}

fn new_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| CallError::new("socket(AF_UNIX, SOCK_SEQPACKET)", e))
}

fn address_at(dir: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    SocketAddrUnix::new(path.as_str()).map_err(|e| CallError::new(format!("sockaddr_un(\"{path}\")"), e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, OFlags, openat};
    use std::os::unix::fs::PermissionsExt;

    const LIMIT: Duration = Duration::from_secs(10);

    fn open_dir(path: &std::path::Path) -> OwnedFd {
        openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn packets_keep_their_borders_and_descriptors() {
        let (a, b) = pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send_packet(&a, b"one", &[]).unwrap();
        send_packet(&a, b"three", &[null.as_fd(), a.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let first = recv_packet(&b, &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..first.len], first.fds.len()), (&b"one"[..], 0));
        let second = recv_packet(&b, &mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..second.len], second.fds.len()), (&b"three"[..], 2));
        for fd in &second.fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert!(recv_packet(&b, &mut buffer).unwrap_err().is_would_block());
        // What came over the socket keeps its other end open.
        drop((a, second));
        assert!(recv_packet(&b, &mut buffer).unwrap().is_none());
        assert!(send_packet(&b, b"x", &[]).unwrap_err().is(Errno::PIPE));
    }

    #[test]
    fn too_much_is_seen() {
        let (a, b) = pair().unwrap();
        send_packet(&a, b"0123456789", &[]).unwrap();
        let packet = recv_packet(&b, &mut [0; 4]).unwrap().unwrap();
        assert!(packet.truncated && packet.len == 4);
        let many = vec![a.as_fd(); MAX_FDS + 1];
        assert!(send_packet(&a, b"x", &many).unwrap_err().is(Errno::TOOBIG));
        send_packet(&a, b"x", &many[..MAX_FDS]).unwrap();
        assert_eq!(recv_packet(&b, &mut [0; 4]).unwrap().unwrap().fds.len(), MAX_FDS);
    }

    #[test]
    fn a_full_buffer_is_would_block_and_then_writable() {
        let (a, b) = pair().unwrap();
        let full = loop {
            if let Err(e) = send_packet(&a, &[7; 4096], &[]) {
                break e;
            }
        };
        assert!(full.is_would_block(), "{full:?}");
        assert!(!wait_writable(&a, Duration::ZERO).unwrap());
        while recv_packet(&b, &mut [0; 4096]).is_ok() {}
        assert!(wait_writable(&a, LIMIT).unwrap());
    }

    #[test]
    fn what_was_sent_before_a_reset_is_read() {
        let (a, b) = pair().unwrap();
        send_packet(&a, b"never read", &[]).unwrap();
        send_packet(&b, b"last words", &[]).unwrap();
        drop(b);
        let mut buffer = [0; 16];
        let packet = recv_packet(&a, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..packet.len], b"last words");
        assert!(recv_packet(&a, &mut buffer).unwrap().is_none());
    }

    #[test]
    fn listens_deep_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let at = open_dir(&deep);
        assert!(connect_at(at.as_fd(), "s.sock", LIMIT).unwrap_err().is(Errno::NOENT));
        let listener = listen_at(at.as_fd(), "s.sock").unwrap();
        assert_eq!(std::fs::metadata(deep.join("s.sock")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen_at(at.as_fd(), "s.sock").unwrap_err().is(Errno::ADDRINUSE));
        let client = connect_at(at.as_fd(), "s.sock", LIMIT).unwrap();
        let server = accept(&listener).unwrap();
        assert_eq!(peer_pid(&server).unwrap(), i32::try_from(std::process::id()).unwrap());
        send_packet(&client, b"hi", &[]).unwrap();
        assert!(wait_readable(&server, LIMIT).unwrap());
        assert_eq!(recv_packet(&server, &mut [0; 8]).unwrap().unwrap().len, 2);
        drop(listener);
        assert!(connect_at(at.as_fd(), "s.sock", LIMIT).unwrap_err().is(Errno::CONNREFUSED));
    }

    #[test]
    fn a_stream_brings_descriptors_too() {
        let dir = tempfile::tempdir().unwrap();
        let at = open_dir(dir.path());
        let listener = listen_stream_at(at.as_fd(), "console.sock").unwrap();
        assert!(accept(&listener).unwrap_err().is_would_block());
        let client = std::os::unix::net::UnixStream::connect(dir.path().join("console.sock")).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        send_packet(&client, b"/dev/ptmx", &[null.as_fd()]).unwrap();
        drop(client);
        let server = accept(&listener).unwrap();
        let packet = recv_packet(&server, &mut [0; 64]).unwrap().unwrap();
        assert_eq!((packet.len, packet.fds.len()), (9, 1));
    }

    #[test]
    fn connecting_to_a_full_listener_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = open_dir(dir.path());
        let _listener = listen_at(at.as_fd(), "s.sock").unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match connect_at(at.as_fd(), "s.sock", Duration::from_millis(1)) {
                Ok(socket) => waiting.push(socket),
                Err(e) => break e,
            }
        };
        assert!(full.is_would_block(), "{full:?}");
        assert!(!waiting.is_empty());
    }
}
