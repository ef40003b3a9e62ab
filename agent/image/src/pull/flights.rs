//! One download for all pulls that want the same layer at the same time.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::Error;
use crate::digest::Digest;
use crate::store::Staged;

/// What makes two downloads the same. The repository is part of it, so that a hostile registry cannot make the pull of
/// an image fail that merely has a layer of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub repository: String,
    pub blob: Digest,
    pub diff_id: Digest,
}

type Outcome = Option<Result<Arc<Staged>, Arc<Error>>>;

/// A download in a task of its own. It goes on as long as one pull holds it, and is stopped when the last one lets go.
#[derive(Debug)]
pub(super) struct Flight {
    outcome: watch::Receiver<Outcome>,
    /// Bytes that have come so far.
    pub received: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Flight {
    fn start<F>(fetch: impl FnOnce(Arc<AtomicU64>) -> F) -> Self
    where
        F: Future<Output = Result<Staged, Error>> + Send + 'static,
    {
        let received = Arc::new(AtomicU64::new(0));
        let fetch = fetch(Arc::clone(&received));
        let (sender, outcome) = watch::channel(None);
        let task = tokio::spawn(async move {
            let result = fetch.await.map(Arc::new).map_err(Arc::new);
            sender.send_replace(Some(result));
        });
        Self { outcome, received, task: task.abort_handle() }
    }

    /// Whether waiting for it makes sense to someone who comes now.
    fn is_promising(&self) -> bool {
        match &*self.outcome.borrow() {
            Some(result) => result.is_ok(),
            None => !self.task.is_finished(),
        }
    }

    /// The layer, or the failure that all its pulls share.
    pub(super) async fn wait(&self) -> Result<Arc<Staged>, Arc<Error>> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            // The task was stopped in the middle.
            _ => Err(Arc::new(Error::Cancelled { object: "download of a layer".into() })),
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The downloads that are going on.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: Mutex<HashMap<Key, Weak<Flight>>>,
}

impl Flights {
    /// Joins the download of this layer, or starts it; also says whether it was started. Nothing if by now the layer is
    /// `recorded`, which is asked only if there is no download to join.
    pub(super) fn join<F>(
        &self,
        key: &Key,
        recorded: impl FnOnce() -> bool,
        fetch: impl FnOnce(Arc<AtomicU64>) -> F,
    ) -> Option<(Arc<Flight>, bool)>
    where
        F: Future<Output = Result<Staged, Error>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade)
            && flight.is_promising()
        {
            return Some((flight, false));
        }
        if recorded() {
            return None;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(Flight::start(fetch));
        flights.insert(key.clone(), Arc::downgrade(&flight));
        Some((flight, true))
    }
}
