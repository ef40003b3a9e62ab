//! Connections that have not been upgraded yet: so many at a time. The oldest makes way for a new one, so that whoever holds
//! connections open without a word keeps nobody out: a client that means it has sent its request within milliseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All of a server.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    max: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// By age, the oldest first.
    taken: BTreeMap<u64, Arc<Notify>>,
}

impl HalfOpen {
    /// At most `max` at a time.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), places: Mutex::default() })
    }

    /// A place for one more.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        let evicted = Arc::new(Notify::new());
        let mut places = self.places();
        while places.taken.len() >= self.max {
            if let Some((_, oldest)) = places.taken.pop_first() {
                oldest.notify_one();
            }
        }
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, evicted.clone());
        drop(places);
        Place { number, evicted, all: self.clone() }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection, for as long as it is half open.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    evicted: Arc<Notify>,
    all: Arc<HalfOpen>,
}

impl Place {
    /// Ready when it has to make way.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.places().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_way() {
        let all = HalfOpen::new(2);
        let (first, second) = (all.enter(), all.enter());
        drop(first);
        let third = all.enter();
        let is_evicted = async |place: &Place| {
            tokio::time::timeout(Duration::from_millis(50), place.evicted()).await.is_ok()
        };
        assert!(!is_evicted(&second).await);
        let _fourth = all.enter();
        assert!(is_evicted(&second).await && !is_evicted(&third).await);
    }
}
