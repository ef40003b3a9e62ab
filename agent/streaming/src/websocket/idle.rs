//! A connection's last sign of life.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Idle {
    limit: Duration,
    last: Mutex<Instant>,
}

impl Idle {
    pub fn new(limit: Duration) -> Self {
        Self { limit, last: Mutex::new(Instant::now()) }
    }

    /// A message went in or out.
    pub fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ready when there was no message for the limit. Cancel safe.
    pub async fn expired(&self) {
        loop {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= self.limit {
                return;
            }
            tokio::time::sleep_until(last + self.limit).await;
        }
    }
}
