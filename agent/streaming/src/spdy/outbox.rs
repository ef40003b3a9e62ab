//! Small frames on their way to the peer: echoes of PING and RST_STREAM.
//!
//! The reader must not wait for the socket's other direction, or two peers that write much and read little would wait
//! for each other; and a handle that is dropped cannot wait at all. So both leave their frames here, and a task of its
//! own writes them. The reader waits only when a peer that does not read has made it leave too many.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::Control;

/// Frames left before the reader waits. Handles that are dropped may go over it, by one frame for each stream.
const ROOM: usize = 128;

#[derive(Default)]
pub(super) struct Outbox {
    bytes: Mutex<Batch>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    frames: usize,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a frame.
    pub fn push(&self, frame: &Control) {
        let mut batch = self.lock();
        batch.bytes.extend_from_slice(&frame.encode());
        batch.frames += 1;
        drop(batch);
        self.filled.notify_one();
    }

    /// All that is there, ready for the wire.
    pub fn take(&self) -> Vec<u8> {
        let batch = std::mem::take(&mut *self.lock());
        self.emptied.notify_waiters();
        batch.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.lock().frames == 0
    }

    pub fn is_full(&self) -> bool {
        self.lock().frames >= ROOM
    }

    /// Ready when there is something. For one task only.
    pub async fn filled(&self) {
        while self.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Ready when there is room.
    pub async fn room(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if !self.is_full() {
                return;
            }
            emptied.await;
        }
    }
}
