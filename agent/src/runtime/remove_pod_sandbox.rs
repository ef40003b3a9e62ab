//! RemovePodSandbox: stop, remove the containers, then the record. Idempotent.

use std::sync::PoisonError;

use super::{
    Error, Runtime,
    blocking::{blocking, remove_tree},
    names::Reservation,
    object::Pod,
    record::PodPhase,
    stop_pod_sandbox::teardown,
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

    pub(super) async fn remove_pod(&self, pod: &std::sync::Arc<Pod>) -> Result<(), Error> {
        let _life = pod.life.write().await;
        let known = self.pods.read().unwrap_or_else(PoisonError::into_inner).contains_key(&pod.id);
        if !known {
            return Ok(());
        }
        pod.record.update(|record| record.phase = PodPhase::Removing).await?;
        let mut errors = Vec::new();
        for container in self.containers_of(&pod.id) {
            if let Err(error) = self.remove_container_now(&container).await {
                errors.push(error);
            }
        }
        if let Err(error) = self.stop_pod(pod).await {
            errors.push(error);
        }
        teardown(format!("pod sandbox {}", pod.id), errors)?;
        let dir = pod.dir.clone();
        blocking(move || remove_tree(&dir)).await?;
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(&pod.id);
        pod.name.release();
        pod.level.iter().for_each(Reservation::release);
        Ok(())
    }
}
