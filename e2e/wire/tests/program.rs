//! A client of k8s-cri 0.11 against the built program: what a kubelet asks first, and what is not there.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{
    agent::Settings,
    oracle::Scope,
    place,
    process::{self, Process},
    scene, wait,
};
use holdfast_wire::client;
use k8s_cri::v1::{
    CgroupDriver, ContainerStatusRequest, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListImagesRequest, ListPodSandboxRequest, PodSandboxStatusRequest,
    RemoveContainerRequest, RuntimeConfigRequest, StatusRequest, VersionRequest,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use nix::sys::signal::Signal;
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, transport::Channel};

/// Why this cannot run here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let program = place::holdfast();
    (!program.exists()).then(|| format!("{} is not there: run cargo x test", program.display()))
}

/// An agent in a network namespace and directories of its own, and a connection to it.
struct Agent {
    settings: Settings,
    process: Process,
    channel: Channel,
}

impl Agent {
    fn start(dir: &Path, tokio: &Runtime) -> Result<Self> {
        process::become_reaper()?;
        scene::own_network()?;
        let settings = Settings::new(dir, 1);
        settings.write()?;
        let log = File::create(dir.join("agent.log")).context("create the agent's log")?;
        let mut serve = Command::new(place::holdfast());
        serve.arg("serve").arg("--config").arg(settings.config()).stderr(log);
        let mut process = Process::spawn(&mut serve)?;
        let channel = wait::until("the agent's socket", wait::LIMIT, || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(status)));
            }
            Ok(Some(Ok(tokio.block_on(client::connect(&settings.socket()))?)))
        });
        match channel.with_context(|| said(dir))? {
            Ok(channel) => Ok(Self { settings, process, channel }),
            Err(status) => bail!("holdfast serve ended with {status}: {}", said(dir)),
        }
    }
}

impl Drop for Agent {
    /// What an agent keeps for its next start, and what a failed test has left.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let dir = self.settings.dir.clone();
        let directories = vec![self.settings.root(), self.settings.state()];
        Scope {
            dir,
            directories,
            agent: None,
            cgroup: Some(self.settings.cgroup_parent.clone()),
            ours: true,
            ..Scope::default()
        }
        .sweep();
    }
}

fn said(dir: &Path) -> String {
    let log = fs::read(dir.join("agent.log")).unwrap_or_default();
    format!("the agent's log:\n{}", String::from_utf8_lossy(&log))
}

#[test]
fn an_independent_client_is_answered() -> Result<()> {
    if let Some(reason) = missing() {
        println!("SKIP: {reason}");
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("hf-wire-").tempdir_in("/var/tmp")?;
    // One thread, this one: what the agent inherits is this thread's network.
    let tokio = Builder::new_current_thread().enable_all().build()?;
    let mut agent = Agent::start(dir.path(), &tokio)?;
    let asked = tokio.block_on(async {
        runtime(&agent).await.context("runtime service")?;
        nothing_there(&agent).await.context("what is not there")?;
        images(&agent).await.context("image service")
    });
    // The agent lets connections end in peace, and nobody would end ours while this thread waits for the agent.
    drop(tokio);
    agent.process.signal(Signal::SIGTERM)?;
    let ended = agent.process.end(wait::LIMIT)?;
    asked.with_context(|| said(dir.path()))?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

async fn runtime(agent: &Agent) -> Result<()> {
    let mut client = RuntimeServiceClient::new(agent.channel.clone());
    let version = client.version(VersionRequest { version: "v1".into() }).await?.into_inner();
    ensure!(version.runtime_name == "holdfast" && version.runtime_api_version == "v1", "{version:?}");
    ensure!(!version.runtime_version.is_empty() && !version.version.is_empty(), "{version:?}");

    let status = client.status(StatusRequest { verbose: true }).await?.into_inner();
    let conditions = status.status.context("a status")?.conditions;
    for name in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == name);
        ensure!(condition.is_some_and(|condition| condition.status), "{name}: {conditions:?}");
    }
    ensure!(
        status.runtime_handlers.iter().any(|handler| handler.name.is_empty()),
        "{:?}",
        status.runtime_handlers
    );
    ensure!(status.features.context("features")?.supplemental_groups_policy, "no supplemental groups policy");
    let config: serde_json::Value =
        serde_json::from_str(status.info.get("config").context("info has no config")?)?;
    ensure!(config["stateDir"] == agent.settings.state().to_string_lossy().as_ref(), "{config}");

    let config = client.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
    let driver = config.linux.context("a linux configuration")?.cgroup_driver();
    let expected = if agent.settings.cgroup_driver == "systemd" {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    };
    ensure!(driver == expected, "{driver:?}");

    let pods = client.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await?.into_inner();
    ensure!(pods.items.is_empty(), "{pods:?}");
    let containers = client.list_containers(ListContainersRequest { filter: None }).await?.into_inner();
    ensure!(containers.containers.is_empty(), "{containers:?}");
    Ok(())
}

/// The codes that kubelets tell apart.
async fn nothing_there(agent: &Agent) -> Result<()> {
    let mut client = RuntimeServiceClient::new(agent.channel.clone());
    let (id, verbose) = ("0".repeat(64), false);
    let pod = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose };
    let error =
        client.pod_sandbox_status(pod).await.err().context("the status of a pod that is not there")?;
    ensure!(error.code() == Code::NotFound, "{error}");
    let container = ContainerStatusRequest { container_id: id.clone(), verbose };
    let error = client
        .container_status(container)
        .await
        .err()
        .context("the status of a container that is not there")?;
    ensure!(error.code() == Code::NotFound && error.message().contains(&id), "{error}");
    // To remove what is gone is no error.
    client.remove_container(RemoveContainerRequest { container_id: id }).await?;
    Ok(())
}

async fn images(agent: &Agent) -> Result<()> {
    let mut client = ImageServiceClient::new(agent.channel.clone());
    let images = client.list_images(ListImagesRequest { filter: None }).await?.into_inner();
    ensure!(images.images.is_empty(), "{images:?}");
    let image = Some(ImageSpec { image: "registry.example/none:1".into(), ..Default::default() });
    let status = client.image_status(ImageStatusRequest { image, verbose: false }).await?.into_inner();
    ensure!(status.image.is_none(), "{status:?}");

    let usage = client.image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
    let [filesystem] = usage.image_filesystems.as_slice() else { bail!("not one file system: {usage:?}") };
    let mountpoint = &filesystem.fs_id.as_ref().context("no mount point")?.mountpoint;
    ensure!(Path::new(mountpoint).starts_with(agent.settings.root()), "{mountpoint}");
    ensure!(filesystem.timestamp > 0 && filesystem.used_bytes.is_some(), "{filesystem:?}");
    ensure!(filesystem.inodes_used.is_some(), "{filesystem:?}");
    Ok(())
}
