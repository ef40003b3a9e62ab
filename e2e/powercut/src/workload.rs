//! Workload while the disk logs: images come and go, pods run containers that end by themselves and others that go on.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use holdfast_chaos::wire::Cri;
use holdfast_cri::v1;
use holdfast_e2e::scene::BUSYBOX;

use crate::journal::{What, Writer};

/// Images that are pulled and removed over and over. No two of them are one image.
pub const COMING_AND_GOING: [&str; 6] = [
    "holdfast.test/layers:1",
    "holdfast.test/zstd:1",
    "holdfast.test/greeter:1",
    "holdfast.test/config:1",
    "holdfast.test/escape-paths:1",
    "registry.k8s.io/pause:3.10",
];
/// Pods that are kept before all of them are removed.
const PODS: usize = 6;
/// A container ends within this time.
const EXIT_LIMIT: Duration = Duration::from_secs(30);

/// Clients of one life of the agent, and what they share.
#[derive(Debug)]
pub struct Clients<'a> {
    cri: Cri,
    journal: &'a Writer<'a>,
    logs: PathBuf,
    /// In its pods' names.
    life: u64,
    end: Instant,
}

/// Pods that there are.
#[derive(Debug, Default)]
pub struct Pods(Vec<Pod>);

impl<'a> Clients<'a> {
    /// For `duration`. `logs`: for those of the containers.
    pub fn new(cri: &Cri, journal: &'a Writer<'a>, logs: PathBuf, life: u64, duration: Duration) -> Self {
        let end = Instant::now() + duration;
        Self { cri: cri.clone(), journal, logs, life, end }
    }

    /// Works. `pods`: those of the life before, and what this one leaves.
    ///
    /// # Errors
    /// A call fails.
    pub async fn work(&self, seed: u64, pods: Pods) -> Result<Pods> {
        self.see_all_exits().await?;
        self.pull(BUSYBOX).await?;
        let client = |number| Rng::with_seed(seed.wrapping_add(100 * self.life + number));
        let ((), mut left, more) = tokio::try_join!(
            Box::pin(self.images(client(1))),
            Box::pin(self.pods("a", client(2), pods)),
            Box::pin(self.pods("b", client(3), Pods::default())),
        )?;
        left.0.extend(more.0);
        Ok(left)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn note(&self, what: What) -> Result<()> {
        self.journal.note(what)
    }

    /// An agent that has just started tells ends as well: those that another one told, and all after a boot.
    async fn see_all_exits(&self) -> Result<()> {
        let request = v1::ListContainersRequest::default();
        let listed = self.cri.runtime.clone().list_containers(request).await.context("ListContainers")?;
        for container in listed.into_inner().containers {
            if container.state() != v1::ContainerState::ContainerExited {
                continue;
            }
            self.note(What::Exited { id: container.id, pod: container.pod_sandbox_id, code: None })?;
        }
        Ok(())
    }

    async fn images(&self, mut rng: Rng) -> Result<()> {
        let mut there = BTreeSet::new();
        while !self.is_over() {
            let name = COMING_AND_GOING[rng.usize(..COMING_AND_GOING.len())];
            if there.insert(name) || rng.u8(..4) == 0 {
                self.pull(name).await?;
            } else {
                there.remove(name);
                self.remove_image(name).await?;
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(..200))).await;
        }
        Ok(())
    }

    async fn pull(&self, name: &str) -> Result<()> {
        pull(&self.cri, name).await?;
        self.note(What::Pulled(name.to_owned()))
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        self.note(What::RemovingImage(name.to_owned()))?;
        remove_image(&self.cri, name).await?;
        self.note(What::ImageRemoved(name.to_owned()))
    }

    async fn pods(&self, name: &str, mut rng: Rng, mut pods: Pods) -> Result<Pods> {
        for number in 0.. {
            if self.is_over() {
                break;
            }
            let name = format!("{name}{}x{number}", self.life);
            let pod = Box::pin(self.pod(&name, &mut rng)).await?;
            match rng.u8(..4) {
                0 => self.remove(pod).await?,
                1 => {
                    self.stop(&pod).await?;
                    pods.0.push(pod);
                }
                _ => pods.0.push(pod),
            }
            if pods.0.len() >= PODS {
                for pod in std::mem::take(&mut pods.0) {
                    self.remove(pod).await?;
                }
            }
        }
        Ok(pods)
    }

    /// Runs a pod with a few containers: those that end, told or not, one that goes on or is stopped, one that is never started.
    async fn pod(&self, name: &str, rng: &mut Rng) -> Result<Pod> {
        let config = self.pod_config(name);
        let mut runtime = self.cri.runtime.clone();
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let id = runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
        let mut pod = Pod { id, config, containers: Vec::new(), not_started: None };
        for number in 0..rng.u8(1..4) {
            self.ends(&mut pod, number, rng).await?;
        }
        let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
        let goes_on = self.create(&mut pod, "goes-on", BUSYBOX, script).await?;
        self.start(&goes_on).await?;
        let cmd = ["sh", "-c", "echo hello > /hello"].map(str::to_owned).to_vec();
        let request = v1::ExecSyncRequest { container_id: goes_on.clone(), cmd, timeout: 10 };
        runtime.exec_sync(request).await.context("ExecSync")?;
        if rng.bool() {
            let request = v1::StopContainerRequest { container_id: goes_on.clone(), timeout: 5 };
            // No promise: an end that was asked for is told before the disk has it.
            runtime.stop_container(request).await.context("StopContainer")?;
        }
        if rng.bool() {
            pod.not_started = Some(self.create(&mut pod, "not-started", BUSYBOX, "true").await?);
        }
        Ok(pod)
    }

    /// A container that ends by itself.
    async fn ends(&self, pod: &mut Pod, number: u8, rng: &mut Rng) -> Result<()> {
        let code = rng.i32(0..100);
        let script = format!("echo {code} > /result; usleep {}; exit {code}", rng.u32(..100_000));
        let image = if rng.u8(..3) == 0 { COMING_AND_GOING[0] } else { BUSYBOX };
        let id = self.create(pod, &format!("ends-{number}"), image, &script).await?;
        self.start(&id).await?;
        if rng.u8(..4) > 0 {
            self.see_exit(&id, &pod.id, code).await?;
        }
        if rng.u8(..4) == 0 {
            self.remove_container(&id).await?;
            pod.containers.retain(|container| *container != id);
        }
        Ok(())
    }

    fn pod_config(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "powercut".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.logs.join(name).to_string_lossy().into_owned(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// An image that is not there just now is replaced by the one that always is.
    async fn create(&self, pod: &mut Pod, name: &str, image: &str, script: &str) -> Result<String> {
        let made = match self.try_create(pod, name, image, script).await {
            Err(status) if status.code() == tonic::Code::NotFound && image != BUSYBOX => {
                self.try_create(pod, name, BUSYBOX, script).await
            }
            other => other,
        };
        let id = made.context("CreateContainer")?;
        pod.containers.push(id.clone());
        Ok(id)
    }

    async fn try_create(
        &self,
        pod: &Pod,
        name: &str,
        image: &str,
        script: &str,
    ) -> Result<String, tonic::Status> {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(image_spec(image)),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                resources: None,
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.cri.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.cri.runtime.clone().start_container(request).await.context("StartContainer").map(drop)
    }

    /// Asks until the container is shown as EXITED, and notes that.
    async fn see_exit(&self, id: &str, pod: &str, code: i32) -> Result<()> {
        let deadline = Instant::now() + EXIT_LIMIT;
        loop {
            let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
            let answer =
                self.cri.runtime.clone().container_status(request).await.context("ContainerStatus")?;
            let status = answer.into_inner().status.context("a status without one")?;
            if status.state == v1::ContainerState::ContainerExited as i32 {
                ensure!(
                    status.exit_code == code,
                    "container {id} ended with {}, not {code}",
                    status.exit_code
                );
                return self.note(What::Exited { id: id.to_owned(), pod: pod.to_owned(), code: Some(code) });
            }
            ensure!(Instant::now() < deadline, "container {id} does not end");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.note(What::RemovingContainer(id.to_owned()))?;
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.cri.runtime.clone().remove_container(request).await.context("RemoveContainer")?;
        self.note(What::ContainerRemoved(id.to_owned()))
    }

    /// StopPodSandbox.
    async fn stop(&self, pod: &Pod) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.cri.runtime.clone().stop_pod_sandbox(request).await.context("StopPodSandbox").map(drop)
    }

    async fn remove(&self, pod: Pod) -> Result<()> {
        for id in &pod.containers {
            self.note(What::RemovingContainer(id.clone()))?;
        }
        remove_pod(&self.cri, &pod.id).await?;
        pod.containers.into_iter().try_for_each(|id| self.note(What::ContainerRemoved(id)))
    }
}

#[derive(Debug)]
struct Pod {
    id: String,
    config: v1::PodSandboxConfig,
    containers: Vec<String>,
    not_started: Option<String>,
}

/// PullImage.
///
/// # Errors
/// That of the call.
pub async fn pull(cri: &Cri, name: &str) -> Result<()> {
    let request = v1::PullImageRequest { image: Some(image_spec(name)), ..Default::default() };
    cri.image.clone().pull_image(request).await.with_context(|| format!("PullImage {name}")).map(drop)
}

/// RemoveImage.
///
/// # Errors
/// That of the call.
pub async fn remove_image(cri: &Cri, name: &str) -> Result<()> {
    let request = v1::RemoveImageRequest { image: Some(image_spec(name)) };
    cri.image.clone().remove_image(request).await.with_context(|| format!("RemoveImage {name}")).map(drop)
}

/// StopPodSandbox and RemovePodSandbox.
///
/// # Errors
/// That of the call.
pub async fn remove_pod(cri: &Cri, id: &str) -> Result<()> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    cri.runtime.clone().stop_pod_sandbox(request).await.context("StopPodSandbox")?;
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    cri.runtime.clone().remove_pod_sandbox(request).await.context("RemovePodSandbox").map(drop)
}

fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.into(), ..Default::default() }
}

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}
