//! A CRI client for one pod after the other.

use anyhow::{Context, Result};
use holdfast_cri::v1::{self, runtime_service_client::RuntimeServiceClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::Options;

/// A pod and its container.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Pod sandbox id.
    pub pod: String,
    /// Container id.
    pub container: String,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    image: String,
    host_network: bool,
    cgroup_parent: String,
    memory_limit: i64,
    run: u32,
    next: u32,
}

impl Client {
    /// Connects to the socket.
    pub async fn connect(options: &Options) -> Result<Self> {
        let path = options.endpoint.strip_prefix("unix://").unwrap_or(&options.endpoint).to_owned();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("connect to {}", options.endpoint))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel),
            image: options.image.clone(),
            host_network: options.host_network,
            cgroup_parent: options.cgroup_parent.clone(),
            memory_limit: options.memory_limit_mib << 20,
            run: std::process::id(),
            next: 0,
        })
    }

    /// Version.
    pub async fn version(&mut self) -> Result<()> {
        self.runtime.version(v1::VersionRequest::default()).await.context("Version")?;
        Ok(())
    }

    /// Whether the runtime is ready, `pods` pods are READY and as many containers RUNNING.
    pub async fn all_is_well(&mut self, pods: usize) -> Result<bool> {
        let status = self.runtime.status(v1::StatusRequest::default()).await.context("Status")?.into_inner();
        let conditions = status.status.unwrap_or_default().conditions;
        let ready = conditions.iter().any(|condition| condition.r#type == "RuntimeReady" && condition.status);
        let request = v1::ListPodSandboxRequest::default();
        let list = self.runtime.list_pod_sandbox(request).await.context("ListPodSandbox")?.into_inner();
        let pods_ready =
            list.items.iter().filter(|pod| pod.state() == v1::PodSandboxState::SandboxReady).count();
        let request = v1::ListContainersRequest::default();
        let list = self.runtime.list_containers(request).await.context("ListContainers")?.into_inner();
        let running = list
            .containers
            .iter()
            .filter(|container| container.state() == v1::ContainerState::ContainerRunning)
            .count();
        Ok(ready && pods_ready == pods && running == pods)
    }

    /// RunPodSandbox.
    pub async fn run_pod(&mut self) -> Result<(String, v1::PodSandboxConfig)> {
        let config = self.pod_config();
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = self.runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?;
        Ok((answer.into_inner().pod_sandbox_id, config))
    }

    /// CreateContainer and StartContainer.
    pub async fn start(&mut self, pod: &str, config: &v1::PodSandboxConfig) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(self.container_config()),
            sandbox_config: Some(config.clone()),
        };
        let container_id = self
            .runtime
            .create_container(request)
            .await
            .context("CreateContainer")?
            .into_inner()
            .container_id;
        let request = v1::StartContainerRequest { container_id: container_id.clone() };
        self.runtime.start_container(request).await.context("StartContainer")?;
        Ok(container_id)
    }

    /// ExecSync of `true`.
    pub async fn exec(&mut self, container: &str) -> Result<()> {
        let request =
            v1::ExecSyncRequest { container_id: container.to_owned(), cmd: vec!["true".into()], timeout: 10 };
        let answer = self.runtime.exec_sync(request).await.context("ExecSync")?.into_inner();
        anyhow::ensure!(answer.exit_code == 0, "true ended with {}", answer.exit_code);
        Ok(())
    }

    /// Exec: the URL of a session with standard output, and input if wanted.
    pub async fn exec_url(&mut self, container: &str, stdin: bool, command: &[&str]) -> Result<String> {
        let request = v1::ExecRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty: false,
            stdin,
            stdout: true,
            stderr: true,
        };
        Ok(self.runtime.exec(request).await.context("Exec")?.into_inner().url)
    }

    /// StopContainer without a grace period, and RemoveContainer.
    pub async fn end_container(&mut self, container: &str) -> Result<()> {
        self.stop(container).await?;
        self.remove(container).await
    }

    /// StopContainer without a grace period.
    pub async fn stop(&mut self, container: &str) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: container.to_owned(), timeout: 0 };
        self.runtime.stop_container(request).await.context("StopContainer")?;
        Ok(())
    }

    /// RemoveContainer.
    pub async fn remove(&mut self, container: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: container.to_owned() };
        self.runtime.remove_container(request).await.context("RemoveContainer")?;
        Ok(())
    }

    /// StopPodSandbox and RemovePodSandbox.
    pub async fn end_pod(&mut self, pod: &str) -> Result<()> {
        let pod_sandbox_id = pod.to_owned();
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        self.runtime
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .context("RemovePodSandbox")?;
        Ok(())
    }

    fn pod_config(&mut self) -> v1::PodSandboxConfig {
        self.next += 1;
        let network = if self.host_network { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: format!("bench-{}", self.next),
                uid: format!("bench-{}-{}", self.run, self.next),
                namespace: "bench".into(),
                attempt: 0,
            }),
            hostname: format!("bench-{}", self.next),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: network.into(),
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    seccomp: Some(v1::SecurityProfile::default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container_config(&self) -> v1::ContainerConfig {
        let network = if self.host_network { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: vec!["sleep".into(), "100000".into()],
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    memory_limit_in_bytes: self.memory_limit,
                    ..Default::default()
                }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: network.into(),
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    // RuntimeDefault, as a kubelet with seccompDefault sends it.
                    seccomp: Some(v1::SecurityProfile::default()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }
}
