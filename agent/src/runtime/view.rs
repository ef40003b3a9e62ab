//! What readers see: snapshots without I/O.

use std::{net::IpAddr, sync::Arc};

use holdfast_pod::protocol::{ExitRecord, Phase};

use super::{
    Error, Runtime,
    object::Pod,
    record::{ContainerRecord, PodPhase, PodRecord},
};

/// A pod sandbox as it is now.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its record.
    pub record: Arc<PodRecord>,
    /// READY: made, not stopped, and its holder lives.
    pub ready: bool,
    /// Primary address first; empty on the host's network.
    pub ips: Vec<IpAddr>,
    /// The holder's pid.
    pub pid: Option<i32>,
    /// What CNI answered, if CNI made the network.
    pub cni_result: Option<serde_json::Value>,
}

/// A container as it is now.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its record.
    pub record: Arc<ContainerRecord>,
}

/// How a container ended.
pub type ExitInfo = ExitRecord;

impl ContainerView {
    /// CRI's reason: `Completed`, `Error`, `OOMKilled`, or one of our own.
    pub fn reason(&self) -> String {
        match &self.record.exit {
            None => String::new(),
            Some(exit) if !exit.reason.is_empty() => exit.reason.clone(),
            Some(exit) if exit.oom_killed && exit.exit_code != 0 => "OOMKilled".to_owned(),
            Some(exit) if exit.exit_code == 0 => "Completed".to_owned(),
            Some(_) => "Error".to_owned(),
        }
    }
}

impl Runtime {
    /// One pod sandbox.
    pub fn pod_status(&self, id: &str) -> Result<PodView, Error> {
        let pod = self.pod(id)?;
        if pod.record.get().phase == PodPhase::Creating {
            return Err(Error::NotFound { what: "pod sandbox", id: id.to_owned() });
        }
        Ok(self.pod_view(&pod))
    }

    /// All pod sandboxes, newest first, but for those that are being undone: nobody was told of them.
    pub fn list_pods(&self) -> Vec<PodView> {
        let mut pods: Vec<_> = self.all_pods().iter().map(|pod| self.pod_view(pod)).collect();
        pods.retain(|pod| pod.record.phase != PodPhase::Creating);
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.record.created_at_ns));
        pods
    }

    /// One container.
    pub fn container_status(&self, id: &str) -> Result<ContainerView, Error> {
        let record = self.container(id)?.record.get();
        if record.phase == Phase::Creating {
            return Err(Error::NotFound { what: "container", id: id.to_owned() });
        }
        Ok(ContainerView { record })
    }

    /// All containers, newest first, but for those that are being undone: nobody was told of them.
    pub fn list_containers(&self) -> Vec<ContainerView> {
        let records = self.all_containers().into_iter().map(|container| container.record.get());
        let known = records.filter(|record| record.phase != Phase::Creating);
        let mut containers: Vec<_> = known.map(|record| ContainerView { record }).collect();
        containers.sort_by_key(|container| std::cmp::Reverse(container.record.created_at_ns));
        containers
    }

    /// Waits for a container's exit.
    pub async fn wait_container(&self, id: &str) -> Result<ExitInfo, Error> {
        let container = self.container(id)?;
        container.wait_exited().await;
        Ok(container.record.get().exit.clone().unwrap_or_default())
    }

    /// The OCI runtime spec of a container, for verbose status. Blocking work is done elsewhere.
    pub async fn runtime_spec(&self, id: &str) -> Result<serde_json::Value, Error> {
        let container = self.container(id)?;
        if container.record.get().runtime.is_some() {
            // What the runtime was given, as long as it is there.
            let path = self.run_dir(&container.id).join("config.json");
            let given = super::blocking::blocking(move || std::fs::read(path)).await;
            if let Some(spec) = given.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                return Ok(spec);
            }
        }
        let kept = super::blocking::blocking(move || container.kept_launch()).await?;
        Ok(serde_json::to_value(kept.launch.spec).unwrap_or_default())
    }

    fn pod_view(&self, pod: &Pod) -> PodView {
        let network = self.network.get(&pod.id);
        PodView {
            record: pod.record.get(),
            ready: pod.is_ready(),
            pid: pod.holder().map(|holder| holder.pid()),
            cni_result: network.as_ref().and_then(|network| network.cni_result.clone()),
            ips: network.map(|network| network.ips).unwrap_or_default(),
        }
    }
}
