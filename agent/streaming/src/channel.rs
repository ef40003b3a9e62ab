//! A queue of bytes from a connection to the one who reads a stream, bounded in bytes, whatever the transport.
//!
//! Nothing is ever dropped: when the reader is slow, the feeder waits. Small pieces are joined, so that a peer that sends
//! single bytes cannot make the bookkeeping larger than the bytes.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes that a stream's queue holds before its connection waits.
pub const QUEUE_BYTES: usize = 64 * 1024;
/// Pieces shorter than this many bytes are joined.
const SMALL_BYTES: usize = 1024;

/// The other end is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream or its connection is gone")]
pub struct Gone;

/// The end that is written, by the connection. Dropping it ends the stream.
#[derive(Debug)]
pub struct Feeder {
    queue: Arc<Queue>,
}

/// The end that is read, by the consumer.
pub struct Incoming {
    queue: Arc<Queue>,
    /// What has to live as long as this end does.
    keep: Option<Arc<dyn Any + Send + Sync>>,
}

#[derive(Debug)]
struct Queue {
    limit: usize,
    state: Mutex<State>,
    filled: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    whole: VecDeque<Bytes>,
    /// Small pieces, behind the whole ones.
    tail: Vec<u8>,
    bytes: usize,
    ended: bool,
    abandoned: bool,
}

/// A queue that makes its feeder wait while it holds `limit` bytes or more. One piece may go over the limit.
pub fn queue(limit: usize) -> (Feeder, Incoming) {
    let queue = Arc::new(Queue {
        limit: limit.max(1),
        state: Mutex::default(),
        filled: Notify::new(),
        room: Notify::new(),
    });
    (Feeder { queue: Arc::clone(&queue) }, Incoming { queue, keep: None })
}

impl Feeder {
    /// Appends bytes, after waiting for room; [`Gone`] if the reader was dropped. Cancel safe: all of it or nothing.
    pub async fn feed(&self, bytes: Bytes) -> Result<(), Gone> {
        loop {
            let mut room = pin!(self.queue.room.notified());
            // Before the look at the state: a read between the two must not go unnoticed.
            room.as_mut().enable();
            {
                let mut state = self.queue.lock();
                if state.abandoned || state.ended {
                    return Err(Gone);
                }
                if state.bytes < self.queue.limit {
                    state.push(bytes);
                    drop(state);
                    self.queue.filled.notify_one();
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// The end of the stream: what is queued is still read. Dropping does the same.
    pub fn finish(self) {}

    /// The end of the stream, also for a [`Feeder::feed`] that waits.
    pub(crate) fn end(&self) {
        self.queue.lock().ended = true;
        self.queue.filled.notify_one();
        self.queue.room.notify_waiters();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.end();
    }
}

impl Incoming {
    /// The next bytes, never empty; `None` when the peer has half-closed the stream or the connection is gone. Cancel safe.
    pub async fn read(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.queue.lock();
                if let Some(bytes) = state.pop() {
                    drop(state);
                    self.queue.room.notify_waiters();
                    return Some(bytes);
                }
                if state.ended {
                    return None;
                }
            }
            // One reader, and a permit is kept for it: nothing is missed in between.
            self.queue.filled.notified().await;
        }
    }

    /// Ties something to the life of this end.
    pub(crate) fn keep(&mut self, what: Arc<dyn Any + Send + Sync>) {
        self.keep = Some(what);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        *state = State { abandoned: true, ..State::default() };
        drop(state);
        self.queue.room.notify_waiters();
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("bytes", &self.queue.lock().bytes).finish_non_exhaustive()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, bytes: Bytes) {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if bytes.len() < SMALL_BYTES {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.whole.push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
        self.whole.push_back(bytes);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let bytes = match self.whole.pop_front() {
            Some(bytes) => bytes,
            None if self.tail.is_empty() => return None,
            None => Bytes::from(std::mem::take(&mut self.tail)),
        };
        self.bytes = self.bytes.saturating_sub(bytes.len());
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn everything_comes_out_in_order_and_then_the_end() {
        let (feeder, mut incoming) = queue(64 * 1024);
        for piece in [&b"a"[..], b"b", &[b'c'; 2000], b"d", b""] {
            feeder.feed(Bytes::copy_from_slice(piece)).await.expect("room");
        }
        feeder.finish();
        let mut all = Vec::new();
        while let Some(bytes) = incoming.read().await {
            assert!(!bytes.is_empty());
            all.extend_from_slice(&bytes);
        }
        assert_eq!(all, [&b"ab"[..], &[b'c'; 2000], b"d"].concat());
        assert_eq!(incoming.read().await, None);
    }

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader() {
        let (feeder, mut incoming) = queue(10);
        feeder.feed(Bytes::from_static(b"0123456789")).await.expect("room");
        assert!(timeout(SOON, feeder.feed(Bytes::from_static(b"x"))).await.is_err());
        let (fed, read) = tokio::join!(feeder.feed(Bytes::from_static(b"y")), incoming.read());
        assert_eq!((fed, read), (Ok(()), Some(Bytes::from_static(b"0123456789"))));
        // The feed that was given up above has left nothing.
        assert_eq!(incoming.read().await, Some(Bytes::from_static(b"y")));
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_the_waiting() {
        let (feeder, incoming) = queue(1);
        feeder.feed(Bytes::from_static(b"x")).await.expect("room");
        let (fed, ()) = tokio::join!(feeder.feed(Bytes::from_static(b"y")), async { drop(incoming) });
        assert_eq!(fed, Err(Gone));
        assert_eq!(feeder.feed(Bytes::new()).await, Err(Gone));
    }

    #[tokio::test]
    async fn an_end_from_elsewhere_keeps_what_is_queued() {
        let (feeder, mut incoming) = queue(1);
        feeder.feed(Bytes::from_static(b"x")).await.expect("room");
        let (fed, ()) = tokio::join!(feeder.feed(Bytes::from_static(b"y")), async { feeder.end() });
        assert_eq!(fed, Err(Gone));
        assert_eq!(incoming.read().await, Some(Bytes::from_static(b"x")));
        assert_eq!(incoming.read().await, None);
    }

    #[tokio::test]
    async fn single_bytes_cost_little_more_than_themselves() {
        let (feeder, incoming) = queue(4096);
        for _ in 0..4096 {
            feeder.feed(Bytes::from_static(b"x")).await.expect("room");
        }
        let state = incoming.queue.lock();
        assert_eq!(state.whole.len(), 0);
        assert!(state.tail.capacity() <= 8192);
    }

    #[tokio::test]
    async fn a_reader_waits_for_bytes() {
        let (feeder, mut incoming) = queue(16);
        assert!(timeout(SOON, incoming.read()).await.is_err());
        let (read, fed) = tokio::join!(incoming.read(), feeder.feed(Bytes::from_static(b"late")));
        assert_eq!((read, fed), (Some(Bytes::from_static(b"late")), Ok(())));
    }
}
