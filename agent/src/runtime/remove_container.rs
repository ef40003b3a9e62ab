//! RemoveContainer: kill if it runs, then take back everything. Idempotent.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use holdfast_pod::protocol::Phase;
use tokio::time::timeout;

use super::{Error, Runtime, object::Container, owed::Owed};

/// How long an operation on the container may go on before it is cut short by a kill.
const TURN_LIMIT: Duration = Duration::from_secs(1);

impl Runtime {
    /// Removes a container; one that runs is killed first. An unknown id is success.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let runtime = self.clone();
        self.detached(async move { runtime.remove_container_now(&container).await }).await
    }

    /// What could not be removed now is tried again in the background, whoever asks again meanwhile.
    pub(super) async fn remove_container_now(&self, container: &Arc<Container>) -> Result<(), Error> {
        let removed = self.remove_container_once(container).await;
        if removed.is_err() {
            self.owe(Owed::Container(container.clone()));
        }
        removed
    }

    async fn remove_container_once(&self, container: &Arc<Container>) -> Result<(), Error> {
        container.end_is_wanted.store(true, Ordering::Relaxed);
        let _life = if let Ok(life) = timeout(TURN_LIMIT, container.life.lock()).await {
            life
        } else {
            // A start that hangs, perhaps: the kill ends it, and what comes of the kill is asked for again below.
            let _ = self.kill_container(container).await;
            container.life.lock().await
        };
        let known =
            self.containers.read().unwrap_or_else(PoisonError::into_inner).contains_key(&container.id);
        if !known {
            return Ok(());
        }
        // A disk that takes no writes gets room by what follows.
        container.record.note(|record| record.removing = true).await;
        let mut errors = Vec::new();
        if container.phase() != Phase::Creating {
            errors.extend(self.kill_container(container).await.err());
        }
        self.unmake_container(container, errors).await?;
        // The name first: whoever finds it taken looks its owner up.
        container.release_name();
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(&container.id);
        Ok(())
    }
}
