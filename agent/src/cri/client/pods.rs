//! Pods and containers: what a single pod's life needs.

use std::time::Duration;

use holdfast_cri::v1;
use holdfast_model::{ContainerConfig, PodSandboxConfig};
use tonic::Request;

use super::{Client, ClientError, wire};

/// Beyond a container's own grace period, how long its stop may take.
const STOP_MARGIN: Duration = Duration::from_mins(2);
/// How long any other request may take; the kubelet's own limit is two minutes.
const LIMIT: Duration = Duration::from_mins(4);

/// CRI's states of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Started.
    Running,
    /// Ended.
    Exited,
    /// The agent cannot tell.
    Unknown,
}

/// A container as the agent sees it now.
#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// State.
    pub state: ContainerState,
    /// Exit code, when it has ended.
    pub exit_code: i32,
    /// CRI's reason, when it has ended.
    pub reason: String,
    /// More words on that.
    pub message: String,
    /// Log file.
    pub log_path: String,
}

impl Client {
    /// Makes a pod sandbox and returns its id.
    pub async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, ClientError> {
        let config = Some(wire::pod_sandbox_config(config));
        let request = limited(v1::RunPodSandboxRequest { config, runtime_handler: String::new() }, LIMIT);
        let answer = self.runtime().run_pod_sandbox(request).await;
        Ok(answer.map_err(ClientError::refused("run pod sandbox"))?.into_inner().pod_sandbox_id)
    }

    /// Stops a pod sandbox with all that runs in it.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        let request = limited(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }, LIMIT);
        let answer = self.runtime().stop_pod_sandbox(request).await;
        answer.map(drop).map_err(ClientError::refused("stop pod sandbox"))
    }

    /// Removes a pod sandbox with its containers.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        let request = limited(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }, LIMIT);
        let answer = self.runtime().remove_pod_sandbox(request).await;
        answer.map(drop).map_err(ClientError::refused("remove pod sandbox"))
    }

    /// The addresses of a pod, the primary one first.
    pub async fn pod_ips(&self, id: &str) -> Result<Vec<String>, ClientError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime().pod_sandbox_status(limited(request, LIMIT)).await;
        let status = answer.map_err(ClientError::refused("status of pod sandbox"))?.into_inner().status;
        let network = status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
    }

    /// Makes a container and returns its id.
    pub async fn create_container(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, ClientError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(wire::container_config(config)),
            sandbox_config: Some(wire::pod_sandbox_config(pod_config)),
        };
        let answer = self.runtime().create_container(limited(request, LIMIT)).await;
        let failed = ClientError::refused(format!("create container {}", config.metadata.name));
        Ok(answer.map_err(failed)?.into_inner().container_id)
    }

    /// Starts a container.
    pub async fn start_container(&self, id: &str) -> Result<(), ClientError> {
        let request = limited(v1::StartContainerRequest { container_id: id.to_owned() }, LIMIT);
        let answer = self.runtime().start_container(request).await;
        answer.map(drop).map_err(ClientError::refused("start container"))
    }

    /// Stops a container: its stop signal, then SIGKILL after the grace period.
    pub async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), ClientError> {
        let limit = STOP_MARGIN + Duration::from_secs(grace_s.max(0) as u64);
        let request =
            limited(v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_s }, limit);
        let answer = self.runtime().stop_container(request).await;
        answer.map(drop).map_err(ClientError::refused("stop container"))
    }

    /// Removes a container.
    pub async fn remove_container(&self, id: &str) -> Result<(), ClientError> {
        let request = limited(v1::RemoveContainerRequest { container_id: id.to_owned() }, LIMIT);
        let answer = self.runtime().remove_container(request).await;
        answer.map(drop).map_err(ClientError::refused("remove container"))
    }

    /// How a container is.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus, ClientError> {
        let operation = "status of container";
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime().container_status(limited(request, LIMIT)).await;
        let status = answer.map_err(ClientError::refused(operation))?.into_inner().status;
        let status = status
            .ok_or_else(|| ClientError::Incomplete { operation: operation.to_owned(), what: "status" })?;
        let state = match status.state() {
            v1::ContainerState::ContainerCreated => ContainerState::Created,
            v1::ContainerState::ContainerRunning => ContainerState::Running,
            v1::ContainerState::ContainerExited => ContainerState::Exited,
            v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
        };
        let v1::ContainerStatus { exit_code, reason, message, log_path, .. } = status;
        Ok(ContainerStatus { state, exit_code, reason, message, log_path })
    }

    /// Runs a command in a container and returns its exit code.
    pub async fn exec_sync(&self, id: &str, command: &[String], timeout_s: i64) -> Result<i32, ClientError> {
        let request =
            v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: timeout_s };
        let limit = LIMIT + Duration::from_secs(timeout_s.max(0) as u64);
        let answer = self.runtime().exec_sync(limited(request, limit)).await;
        Ok(answer.map_err(ClientError::refused("exec in container"))?.into_inner().exit_code)
    }
}

/// Every wait has a limit, this side of the socket too.
fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
