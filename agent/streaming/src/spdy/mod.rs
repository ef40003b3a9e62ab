//! SPDY/3.1 as Kubernetes speaks it, the server's side. "The draft" is the SPDY/3 protocol draft, whose frames 3.1 keeps.
//!
//! The client opens all streams. Two tasks serve a connection: the `reader` takes frames apart and feeds the
//! streams' queues, and `connection::tend` sends small frames, watches the idle limit and closes the socket. Streams
//! write for themselves, in turn. Nobody waits for a window, as the Go peers do not either: back-pressure is the
//! socket's, in both directions.
//!
//! ```text
//!   socket -> Reader -> Feeder | Incoming -> consumer          Open --close()--> Closing
//!               |  `-> NewStream -> Accept                      |                  |
//!               `-> Outbox -> tend \                            `--- peer, fault --+--> Gone
//!   socket <-------------- Writer <- Outgoing <- producer
//! ```

mod connection;
mod dictionary;
mod fault;
pub mod frame;
pub mod headers;
mod outbox;
mod reader;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_support;
mod writer;

use std::time::Duration;

pub use connection::{Accept, Connection, serve};
pub use stream::{NewStream, Outgoing};

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
