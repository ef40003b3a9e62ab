//! Messages between our processes: one JSON value a packet, with descriptors, over a seqpacket socket.
//!
//! [`send`] and [`recv`] never wait: [`ChannelError::WouldBlock`] says so, for users of poll(2) and of a reactor alike
//! (`io::Error::from(error).kind()` is `WouldBlock` then). [`send_timeout`] and [`recv_timeout`] wait, with a limit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use holdfast_sys::error::CallError;
use holdfast_sys::socket;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{MAX_FDS, MAX_MESSAGE};

const _: () = assert!(MAX_FDS <= socket::MAX_FDS);

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// There is nothing to receive, or no room to send.
    #[error("the channel is not ready")]
    WouldBlock,
    /// The other end is closed.
    #[error("send message: the other end is closed")]
    Closed,
    /// Nothing came, or nothing could be sent, in time.
    #[error("{operation} message: not done within {limit_ms} ms")]
    Timeout {
        /// `send` or `receive`.
        operation: &'static str,
        /// The limit.
        limit_ms: u128,
    },
    /// It is too long: what can grow belongs into a memfd.
    #[error("send message: {len} bytes of JSON, at most {MAX_MESSAGE} fit into a packet")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It has too many descriptors.
    #[error("send message: {count} descriptors, at most {MAX_FDS} fit into a packet")]
    TooManyFds {
        /// How many.
        count: usize,
    },
    /// What came is longer than the buffer.
    #[error("receive message: it is longer than {capacity} bytes")]
    Truncated {
        /// The buffer's length in bytes.
        capacity: usize,
    },
    /// Descriptors are missing: too many were sent, or we have no room for them.
    #[error(
        "receive message: {received} descriptors came, others were lost; is the limit of open files reached?"
    )]
    FdsTruncated {
        /// How many arrived.
        received: usize,
    },
    /// The value has no JSON form.
    #[error("encode message")]
    Encode(#[source] serde_json::Error),
    /// What came is no such message.
    #[error("decode message of {len} bytes")]
    Decode {
        /// Its length in bytes.
        len: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel refused.
    #[error("message socket")]
    Socket(#[source] CallError),
}

impl ChannelError {
    fn of(error: CallError) -> Self {
        use rustix::io::Errno;
        if error.is_would_block() {
            Self::WouldBlock
        } else if error.is(Errno::PIPE) || error.is(Errno::CONNRESET) {
            Self::Closed
        } else {
            Self::Socket(error)
        }
    }
}

impl From<ChannelError> for io::Error {
    fn from(error: ChannelError) -> Self {
        let kind = match &error {
            ChannelError::WouldBlock => io::ErrorKind::WouldBlock,
            ChannelError::Closed => io::ErrorKind::BrokenPipe,
            ChannelError::Timeout { .. } => io::ErrorKind::TimedOut,
            ChannelError::Decode { .. } | ChannelError::Truncated { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A buffer that holds any message.
pub fn buffer() -> Vec<u8> {
    vec![0; MAX_MESSAGE]
}

/// Sends one message; never waits.
///
/// # Errors
/// [`ChannelError::WouldBlock`] if the other end reads too slowly.
pub fn send<T: Serialize + ?Sized>(
    channel: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ChannelError> {
    send_bytes(channel.as_fd(), &encode(message, fds)?, fds)
}

/// Sends one message and waits for room, at most `limit`.
pub fn send_timeout<T: Serialize + ?Sized>(
    channel: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<(), ChannelError> {
    let bytes = encode(message, fds)?;
    let wait = |left| socket::wait_writable(channel.as_fd(), left);
    until("send", limit, wait, || send_bytes(channel.as_fd(), &bytes, fds))
}

/// Receives one message into `buffer` and decodes it; never waits. `None`: the other end is closed, and all that it
/// sent has been received.
pub fn recv<T: DeserializeOwned>(
    channel: impl AsFd,
    buffer: &mut [u8],
) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
    let Some(packet) = socket::recv_packet(channel, buffer).map_err(ChannelError::of)? else {
        return Ok(None);
    };
    if packet.truncated {
        return Err(ChannelError::Truncated { capacity: buffer.len() });
    }
    if packet.fds_truncated {
        return Err(ChannelError::FdsTruncated { received: packet.fds.len() });
    }
    let message = serde_json::from_slice(&buffer[..packet.len])
        .map_err(|source| ChannelError::Decode { len: packet.len, source })?;
    Ok(Some((message, packet.fds)))
}

/// Receives one message and waits for it, at most `limit`.
pub fn recv_timeout<T: DeserializeOwned>(
    channel: impl AsFd,
    buffer: &mut [u8],
    limit: Duration,
) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
    let wait = |left| socket::wait_readable(channel.as_fd(), left);
    until("receive", limit, wait, || recv(channel.as_fd(), buffer))
}

fn encode<T: Serialize + ?Sized>(message: &T, fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>, ChannelError> {
    let bytes = serde_json::to_vec(message).map_err(ChannelError::Encode)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(ChannelError::TooLong { len: bytes.len() });
    }
    if fds.len() > MAX_FDS {
        return Err(ChannelError::TooManyFds { count: fds.len() });
    }
    Ok(bytes)
}

fn send_bytes(channel: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    socket::send_packet(channel, bytes, fds).map_err(ChannelError::of)
}

/// Tries until the channel was ready for it, or the time is over.
fn until<T>(
    operation: &'static str,
    limit: Duration,
    wait: impl Fn(Duration) -> Result<bool, CallError>,
    mut attempt: impl FnMut() -> Result<T, ChannelError>,
) -> Result<T, ChannelError> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(ChannelError::WouldBlock) => {}
            other => return other,
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() || !wait(left).map_err(ChannelError::of)? {
            return Err(ChannelError::Timeout { operation, limit_ms: limit.as_millis() });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::{Answer, Call, FdRole, Packet, Request};
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_call_and_its_descriptors_arrive() {
        let (agent, shim) = socket::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let call = Call { seq: 7, request: Request::Signal { signal: 15 }, fds: vec![FdRole::Launch] };
        send(&agent, &call, &[null.as_fd()]).unwrap();
        let (got, fds): (Call, _) = recv(&shim, &mut buffer()).unwrap().unwrap();
        assert!(matches!(got, Call { seq: 7, request: Request::Signal { signal: 15 }, .. }));
        assert_eq!((got.fds, fds.len()), (vec![FdRole::Launch], 1));
        send(&shim, &Packet::Answer { seq: 7, answer: Answer::Ok }, &[]).unwrap();
        drop(shim);
        let answer = recv_timeout::<Packet>(&agent, &mut buffer(), LIMIT).unwrap();
        assert!(matches!(answer, Some((Packet::Answer { seq: 7, answer: Answer::Ok }, _))));
        assert!(recv_timeout::<Packet>(&agent, &mut buffer(), LIMIT).unwrap().is_none());
        assert!(matches!(send(&agent, &call, &[]), Err(ChannelError::Closed)));
    }

    #[test]
    fn nothing_waits_without_being_asked_to() {
        let (a, b) = socket::pair().unwrap();
        let nothing = recv::<String>(&a, &mut buffer()).unwrap_err();
        assert_eq!(io::Error::from(nothing).kind(), io::ErrorKind::WouldBlock);
        let late = recv_timeout::<String>(&a, &mut buffer(), Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.to_string(), "receive message: not done within 1 ms");
        let text = "x".repeat(60_000);
        while send(&a, &text, &[]).is_ok() {}
        let full = send_timeout(&a, &text, &[], Duration::from_millis(1)).unwrap_err();
        assert_eq!(full.to_string(), "send message: not done within 1 ms");
        let drain = move || while recv_timeout::<String>(&b, &mut buffer(), LIMIT).unwrap().is_some() {};
        let reader = std::thread::spawn(drain);
        send_timeout(&a, &text, &[], LIMIT).unwrap();
        drop(a);
        reader.join().unwrap();
    }

    #[test]
    fn the_longest_message_passes_and_no_longer_one() {
        let (a, b) = socket::pair().unwrap();
        let longest = "x".repeat(MAX_MESSAGE - 2);
        send(&a, &longest, &[]).unwrap();
        assert_eq!(recv::<String>(&b, &mut buffer()).unwrap().unwrap().0, longest);
        let error = send(&a, &format!("{longest}y"), &[]).unwrap_err();
        assert!(matches!(error, ChannelError::TooLong { len } if len == MAX_MESSAGE + 1), "{error}");
        let fds = vec![a.as_fd(); MAX_FDS + 1];
        assert!(matches!(send(&a, "x", &fds), Err(ChannelError::TooManyFds { count: 33 })));
    }

    #[test]
    fn what_is_cut_or_foreign_is_an_error() {
        let (a, b) = socket::pair().unwrap();
        send(&a, "0123456789", &[]).unwrap();
        let cut = recv::<String>(&b, &mut [0; 4]);
        assert!(matches!(cut, Err(ChannelError::Truncated { capacity: 4 })));
        send(&a, "text", &[]).unwrap();
        assert!(matches!(recv::<Call>(&b, &mut buffer()), Err(ChannelError::Decode { len: 6, .. })));
    }

    #[test]
    fn fields_of_a_newer_peer_are_ignored() {
        let (a, b) = socket::pair().unwrap();
        let newer =
            serde_json::json!({"seq": 1, "request": {"exec": {"exec_id": 5, "novelty": [1]}}, "more": {}});
        send(&a, &newer, &[]).unwrap();
        let (call, _): (Call, _) = recv(&b, &mut buffer()).unwrap().unwrap();
        assert!(matches!(call.request, Request::Exec(exec) if exec.exec_id == 5 && exec.timeout_ms == 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let (a, b) = socket::pair().unwrap();
            socket::send_packet(&a, &bytes, &[]).unwrap();
            match recv::<Call>(&b, &mut buffer()) {
                Ok(Some(_)) | Err(ChannelError::Decode { .. }) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
