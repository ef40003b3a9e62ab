//! Removals that are owed: an object that has to go is tried again until it is gone.
//!
//! Such are what a restart finds half made or half removed, and what could not be taken back or removed at once. A client that asks
//! for the same object meets the worker at the object's lock, and whoever comes second finds it gone.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Error, Runtime,
    backoff::Backoff,
    object::{Container, Pod},
};

/// Most removals at the same time.
pub const AT_ONCE: usize = 4;
/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// An object that has to go.
#[derive(Debug, Clone)]
pub enum Owed {
    /// With everything in it.
    Pod(Arc<Pod>),
    /// A single one.
    Container(Arc<Container>),
}

impl Owed {
    fn id(&self) -> &str {
        match self {
            Self::Pod(pod) => pod.id.as_str(),
            Self::Container(container) => container.id.as_str(),
        }
    }

    /// Whether no task has been at it before.
    fn begin(&self) -> bool {
        let owed = match self {
            Self::Pod(pod) => &pod.owed,
            Self::Container(container) => &container.owed,
        };
        !owed.swap(true, Ordering::Relaxed)
    }
}

impl Runtime {
    /// Removes an object in the background, however often that has to be tried.
    pub(super) fn owe(&self, owed: Owed) {
        if owed.begin() {
            let runtime = self.clone();
            tokio::spawn(async move { runtime.pay(&owed).await });
        }
    }

    async fn pay(&self, owed: &Owed) {
        let mut backoff = Backoff::new(FIRST_WAIT);
        while let Err(error) = self.remove_owed(owed).await {
            let wait = backoff.wait();
            tracing::warn!(
                id = owed.id(),
                error = error.chain(),
                again_in_s = wait.as_secs(),
                "could not remove what has to go"
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn remove_owed(&self, owed: &Owed) -> Result<(), Error> {
        // Never closed.
        let _turn = self.owed_turns.acquire().await;
        match owed {
            Owed::Pod(pod) => self.remove_pod(pod).await,
            Owed::Container(container) => self.remove_container_now(container).await,
        }
    }
}
