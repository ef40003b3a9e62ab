//! RemoveContainer: kill if it runs, then take back everything. Idempotent.

use std::sync::{Arc, PoisonError};

use super::{Error, Runtime, object::Container};

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

    pub(super) async fn remove_container_now(&self, container: &Arc<Container>) -> Result<(), Error> {
        let _life = container.life.lock().await;
        let known =
            self.containers.read().unwrap_or_else(PoisonError::into_inner).contains_key(&container.id);
        if !known {
            return Ok(());
        }
        container.record.update(|record| record.removing = true).await?;
        self.kill_container(container).await?;
        self.unmake_container(container).await?;
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(&container.id);
        container.name.release();
        Ok(())
    }
}
