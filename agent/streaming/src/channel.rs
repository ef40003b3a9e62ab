//! A queue of bytes from a connection to the one who reads a stream, bounded in bytes, whatever the transport.

use bytes::Bytes;

/// Bytes that a stream's queue holds before its connection waits.
pub const QUEUE_BYTES: usize = 64 * 1024;

/// The other end is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream or its connection is gone")]
pub struct Gone;

/// The end that is written, by the connection. Dropping it ends the stream.
#[derive(Debug)]
pub struct Feeder {}

/// The end that is read, by the consumer.
#[derive(Debug)]
pub struct Incoming {}

/// A queue that makes its feeder wait while it holds `limit` bytes or more.
pub fn queue(limit: usize) -> (Feeder, Incoming) {
    let _ = limit;
    todo!()
}

impl Feeder {
    /// Appends bytes, after waiting for room; [`Gone`] if the reader was dropped. Cancel safe: all of it or nothing.
    #[expect(clippy::unused_async, reason = "skeleton")]
    pub async fn feed(&self, bytes: Bytes) -> Result<(), Gone> {
        let _ = bytes;
        todo!()
    }

    /// The end of the stream: what is queued is still read. Dropping does the same.
    pub fn finish(self) {}
}

impl Incoming {
    /// The next bytes, never empty; `None` when the peer has half-closed the stream or the connection is gone. Cancel safe.
    #[expect(clippy::unused_async, reason = "skeleton")]
    pub async fn read(&mut self) -> Option<Bytes> {
        todo!()
    }
}
