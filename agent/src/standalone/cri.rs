//! What a run asks an agent for. [`Client`] answers; tests have an agent of their own.

use holdfast_model::{ContainerConfig, Image, PodSandboxConfig};

use crate::cri::client::{Client, ClientError, ContainerStatus, ProgressFn};

/// The part of CRI that a single pod's life needs.
pub trait Cri {
    /// An image that is there.
    async fn image(&self, name: &str) -> Result<Option<Image>, ClientError>;
    /// Pulls an image.
    async fn pull(&self, name: &str, progress: ProgressFn) -> Result<Image, ClientError>;
    /// Makes a pod sandbox. Asked again for the same one, it answers with the one that is there.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, ClientError>;
    /// Its addresses.
    async fn pod_ips(&self, id: &str) -> Result<Vec<String>, ClientError>;
    /// Kills what runs in it.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), ClientError>;
    /// Removes it with all in it.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), ClientError>;
    /// Makes a container.
    async fn create_container(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, ClientError>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<(), ClientError>;
    /// Stops it.
    async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), ClientError>;
    /// Removes it.
    async fn remove_container(&self, id: &str) -> Result<(), ClientError>;
    /// How it is.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus, ClientError>;
}

impl Cri for Client {
    async fn image(&self, name: &str) -> Result<Option<Image>, ClientError> {
        self.image(name).await
    }

    async fn pull(&self, name: &str, progress: ProgressFn) -> Result<Image, ClientError> {
        self.pull(name, None, progress).await
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, ClientError> {
        self.run_pod_sandbox(config).await
    }

    async fn pod_ips(&self, id: &str) -> Result<Vec<String>, ClientError> {
        self.pod_ips(id).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.stop_pod_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.remove_pod_sandbox(id).await
    }

    async fn create_container(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Result<String, ClientError> {
        self.create_container(pod, config, pod_config).await
    }

    async fn start_container(&self, id: &str) -> Result<(), ClientError> {
        self.start_container(id).await
    }

    async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), ClientError> {
        self.stop_container(id, grace_s).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), ClientError> {
        self.remove_container(id).await
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, ClientError> {
        self.container_status(id).await
    }
}
