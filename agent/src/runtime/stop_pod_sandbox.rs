//! StopPodSandbox: containers, network, holder, cgroup. Idempotent.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    Error, Runtime,
    blocking::blocking,
    object::{Container, Pod},
    record::PodRecord,
};

/// Longest wait for a killed holder to be gone.
pub(super) const HOLDER_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Kills what runs in the pod and gives its network back. An unknown id is success, as the kubelet expects.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let runtime = self.clone();
        self.detached(async move {
            let _life = pod.life.write().await;
            runtime.stop_pod(&pod).await
        })
        .await
    }

    /// With `life` held for writing.
    pub(super) async fn stop_pod(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let runtime = self.clone();
        let mut errors = for_all(self.containers_of(&pod.id), move |container| {
            let runtime = runtime.clone();
            async move { runtime.kill_container(&container).await }
        })
        .await;
        errors.extend(self.end_quarantined_of(pod).await.err());
        errors.extend(self.stop_pod_parts(pod).await.err());
        pod.end().await;
        teardown(format!("pod sandbox {}", pod.id), errors)
    }

    /// Network, holder and cgroup of a pod, whichever of them there are.
    pub(super) async fn stop_pod_parts(&self, pod: &Pod) -> Result<(), Error> {
        let record = pod.record.get();
        let mut errors = Vec::new();
        let holder = pod.take_holder();
        // One of them would keep the network namespace, and with it the address.
        pod.forwards.close();
        let netns = match &holder {
            Some(holder) => self.netns(&record, holder).await.ok(),
            None => None,
        };
        if let Err(source) = self.network.del(&pod.id, netns).await {
            errors.push(Error::Network {
                operation: "take down the network",
                pod: pod.id.to_string(),
                source,
            });
        }
        if let Some(holder) = holder {
            let killing = holder.clone();
            let killed = blocking(move || killing.kill_and_wait(HOLDER_LIMIT)).await;
            if let Err(source) = killed {
                // Whoever tries again needs it.
                *pod.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder);
                errors.push(Error::Holder { operation: "end", pod: pod.id.to_string(), source });
            }
        }
        if let Err(error) = self.remove_pod_cgroup(&record).await {
            errors.push(error);
        }
        teardown(format!("pod sandbox {}", pod.id), errors)
    }

    async fn remove_pod_cgroup(&self, record: &PodRecord) -> Result<(), Error> {
        self.cgroups
            .remove_made(&record.cgroup_made)
            .await
            .map_err(|source| Error::Cgroup { operation: "remove pod", source })
    }
}

/// Does the same with all containers at once; returns what went wrong.
pub(super) async fn for_all<F>(
    containers: Vec<Arc<Container>>,
    operation: impl Fn(Arc<Container>) -> F,
) -> Vec<Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut running: tokio::task::JoinSet<_> = containers.into_iter().map(operation).collect();
    let mut errors = Vec::new();
    while let Some(joined) = running.join_next().await {
        errors.extend(joined.ok().and_then(Result::err));
    }
    errors
}

/// No error, the one error, or all of them.
pub(super) fn teardown(object: String, mut errors: Vec<Error>) -> Result<(), Error> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Teardown { object, errors }),
    }
}
