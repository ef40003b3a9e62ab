//! RemovePodSandbox: stop, remove the containers, then the record. Idempotent.

use std::sync::{Arc, PoisonError};

use super::{
    Error, Runtime,
    blocking::{blocking, remove_tree},
    object::Pod,
    owed::Owed,
    record::PodPhase,
    stop_pod_sandbox::{for_all, teardown},
};

impl Runtime {
    /// Removes the pod with everything in it. An unknown id is success.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let runtime = self.clone();
        self.detached(async move { runtime.remove_pod(&pod).await }).await
    }

    /// What could not be removed now is tried again in the background, whoever asks again meanwhile.
    pub(super) async fn remove_pod(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let removed = self.remove_pod_once(pod).await;
        if removed.is_err() {
            self.owe(Owed::Pod(pod.clone()));
        }
        removed
    }

    async fn remove_pod_once(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let _life = pod.life.write().await;
        let known = self.pods.read().unwrap_or_else(PoisonError::into_inner).contains_key(&pod.id);
        if !known {
            return Ok(());
        }
        // A disk that takes no writes gets room by what follows.
        if pod.record.get().phase != PodPhase::Creating {
            pod.record.note(|record| record.phase = PodPhase::Removing).await;
        }
        let runtime = self.clone();
        let mut errors = for_all(self.containers_of(&pod.id), move |container| {
            let runtime = runtime.clone();
            async move { runtime.remove_container_now(&container).await }
        })
        .await;
        errors.extend(self.stop_pod(pod).await.err());
        teardown(format!("pod sandbox {}", pod.id), errors)?;
        let dir = pod.dir.clone();
        blocking(move || remove_tree(&dir)).await?;
        // The name first: whoever finds it taken looks its owner up.
        pod.release_names();
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(&pod.id);
        Ok(())
    }
}
