//! SPDY/3.1, the server's side.

#![expect(clippy::unused_async, reason = "skeleton")]

mod dictionary;
pub mod frame;
pub mod headers;
#[cfg(test)]
mod tests_support;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::channel::{Gone, Incoming};

/// What a peer may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at a time; more are refused.
    pub max_streams: usize,
    /// Bytes of the largest control frame. DATA frames have no limit: they are passed on in pieces.
    pub max_frame: usize,
    /// Bytes of an inflated header block.
    pub max_headers: usize,
    /// Bytes queued for a stream whose consumer is slow, before the connection is not read any more.
    pub queue: usize,
    /// A connection without a frame for this long is closed.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 1024,
            max_frame: 64 * 1024,
            max_headers: 64 * 1024,
            queue: crate::channel::QUEUE_BYTES,
            idle: Duration::from_hours(4),
        }
    }
}

/// Serves SPDY/3.1 on an upgraded connection. Call it inside a tokio runtime: it spawns the connection's tasks.
pub fn serve<T: AsyncRead + AsyncWrite + Send + 'static>(io: T, limits: Limits) -> (Connection, Accept) {
    let _ = (io, limits);
    todo!()
}

/// The connection as a whole.
#[derive(Clone)]
pub struct Connection {}

impl Connection {
    /// Flushes what is queued, sends GOAWAY, shuts down writing and waits for the peer to do the same, `limit` in all.
    pub async fn close(&self, limit: Duration) {
        let _ = limit;
        todo!()
    }

    /// Ready when the connection is gone: by the peer, a fault or [`Connection::close`]. Cancel safe.
    pub async fn closed(&self) {
        todo!()
    }

    /// Why it is over; `None` while it is not.
    pub fn reason(&self) -> Option<String> {
        todo!()
    }
}

/// Where the client's new streams come out.
pub struct Accept {}

impl Accept {
    /// The next stream; `None` when the connection is over. Cancel safe.
    pub async fn next(&mut self) -> Option<NewStream> {
        todo!()
    }
}

/// A stream that the client wants to open. Dropping it refuses it.
pub struct NewStream {}

impl NewStream {
    /// Its id, odd.
    pub fn id(&self) -> u32 {
        todo!()
    }

    /// A header's (first) value; `name` in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let _ = name;
        todo!()
    }

    /// Whether the client has half-closed it already.
    pub fn fin(&self) -> bool {
        todo!()
    }

    /// Sends SYN_REPLY.
    pub async fn accept(self) -> Result<(Incoming, Outgoing), Gone> {
        todo!()
    }

    /// Sends RST_STREAM.
    pub async fn refuse(self) {}
}

/// The direction to the client. Dropping it sends nothing; when [`Incoming`] is dropped as well, and it was not
/// finished, the stream is reset.
pub struct Outgoing {}

impl Outgoing {
    /// Writes DATA frames. Cancelled in the middle of a frame, it takes the connection with it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let _ = bytes;
        todo!()
    }

    /// Half-closes: an empty DATA frame with FIN. A second time does nothing.
    pub async fn finish(&mut self) -> Result<(), Gone> {
        todo!()
    }

    /// Ends both directions with RST_STREAM.
    pub async fn reset(self) {}
}
