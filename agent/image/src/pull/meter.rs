//! How far a pull is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ProgressFn;
use crate::config::Progress;
use crate::reference::Reference;

/// The bytes of one layer, whichever download brings them.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(Arc<Mutex<Arc<AtomicU64>>>);

impl Counter {
    pub(super) fn set(&self, received: Arc<AtomicU64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = received;
    }

    fn get(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).load(Ordering::Relaxed)
    }
}

/// Tells the caller how far the pull is.
pub(super) struct Meter {
    reference: String,
    tell: Option<ProgressFn>,
    /// Layers that are ready.
    pub done: usize,
    layers: usize,
    total: u64,
    counters: Vec<Counter>,
}

impl Meter {
    pub(super) fn new(reference: &Reference, tell: Option<ProgressFn>, layers: usize, done: usize) -> Self {
        Self { reference: reference.to_string(), tell, done, layers, total: 0, counters: Vec::new() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.tell.is_some()
    }

    pub(super) fn expect(&mut self, size: u64) -> Counter {
        let counter = Counter::default();
        self.counters.push(counter.clone());
        self.total += size;
        counter
    }

    pub(super) fn tell(&self) {
        if let Some(tell) = &self.tell {
            tell(Progress {
                reference: self.reference.clone(),
                layers_done: self.done,
                layers: self.layers,
                bytes: self.counters.iter().map(Counter::get).sum(),
                total_bytes: self.total,
            });
        }
    }
}
