//! UpdateContainerResources.

use holdfast_model::Resources;
use holdfast_pod::protocol::Phase;

use super::{Error, Runtime, error::phase_name};

impl Runtime {
    /// Changes the limits of a container that has not exited. Fields that are 0 or empty stay as they are, but for the swap
    /// limit beside a memory limit.
    pub async fn update_container_resources(&self, id: &str, resources: Resources) -> Result<(), Error> {
        let container = self.container(id)?;
        // The status tells what is in force.
        let resources = holdfast_cgroup::with_swap(&resources);
        let runtime = self.clone();
        self.detached(async move {
            let _life = container.life.lock().await;
            let phase = container.phase();
            if phase == Phase::Exited {
                return Err(Error::WrongState {
                    id: container.id.to_string(),
                    state: phase_name(phase),
                    operation: "UpdateContainerResources",
                    wanted: "created or running",
                });
            }
            let record = container.record.get();
            runtime
                .cgroups
                .update(&record.cgroup, &resources)
                .await
                .map_err(|source| Error::Cgroup { operation: "update container", source })?;
            container.record.learn(|record| merge(&mut record.resources, resources)).await?;
            Ok(())
        })
        .await
    }

    /// UpdatePodSandboxResources: the kubelet writes the pod's cgroup itself; what it says is kept for the status.
    pub async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), Error> {
        let pod = self.pod(id)?;
        // A client that goes away must not leave memory and disk with different answers.
        self.detached(async move {
            pod.record
                .update(|record| {
                    record.config.overhead = overhead.or(record.config.overhead.take());
                    record.config.resources = resources.or(record.config.resources.take());
                })
                .await?;
            Ok(())
        })
        .await
    }
}

fn merge(into: &mut Resources, from: Resources) {
    let number = |into: &mut i64, from: i64| {
        if from != 0 {
            *into = from;
        }
    };
    number(&mut into.cpu_period_us, from.cpu_period_us);
    number(&mut into.cpu_quota_us, from.cpu_quota_us);
    number(&mut into.cpu_shares, from.cpu_shares);
    number(&mut into.memory_limit_bytes, from.memory_limit_bytes);
    number(&mut into.memory_swap_limit_bytes, from.memory_swap_limit_bytes);
    number(&mut into.oom_score_adj, from.oom_score_adj);
    if !from.cpuset_cpus.is_empty() {
        into.cpuset_cpus = from.cpuset_cpus;
    }
    if !from.cpuset_mems.is_empty() {
        into.cpuset_mems = from.cpuset_mems;
    }
    if !from.hugepage_limits.is_empty() {
        into.hugepage_limits = from.hugepage_limits;
    }
    into.unified.extend(from.unified);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let mut now = Resources { cpu_shares: 512, memory_limit_bytes: 1 << 20, ..Resources::default() };
        merge(
            &mut now,
            Resources { memory_limit_bytes: 2 << 20, cpuset_cpus: "0".into(), ..Resources::default() },
        );
        assert_eq!((now.cpu_shares, now.memory_limit_bytes, now.cpuset_cpus.as_str()), (512, 2 << 20, "0"));
    }
}
