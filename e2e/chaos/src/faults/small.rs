//! Pods that a fault is tried on, and those beside it that must not feel it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_cri::v1;
use tokio::time::sleep;

use crate::{
    ask::{container_status, pod_status},
    kernel::Process,
    ledger::Fault,
    plan::PodShape,
    rpc, specs,
    world::{Caller, Failure},
};

/// A pod whose calls are made one by one.
#[derive(Debug, Clone)]
pub struct Small {
    /// Who calls.
    pub caller: Caller,
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub config: v1::PodSandboxConfig,
    shape: PodShape,
}

/// As an error with the call's name.
pub fn failed(what: &'static str) -> impl Fn(Failure) -> anyhow::Error {
    move |failure| anyhow::anyhow!("{what}: {failure}")
}

impl Small {
    /// RunPodSandbox, once.
    pub async fn run(caller: &Caller, shape: PodShape, uid: &str) -> Result<Self, Failure> {
        let world = &caller.world;
        let config = specs::pod(shape, uid, 0, &world.logs, &world.cgroup_parent);
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = caller.settle("RunPodSandbox", &[], rpc::run_pod_sandbox(request)).await?;
        Ok(Self { caller: caller.clone(), id: answer.pod_sandbox_id, config, shape })
    }

    /// A container's configuration, to be changed.
    pub fn container(&self, name: &str, script: &str) -> v1::ContainerConfig {
        specs::container(self.shape, name, 0, script)
    }

    /// CreateContainer, once; the id.
    pub async fn create(&self, config: v1::ContainerConfig) -> Result<String, Failure> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let answer = self.caller.settle("CreateContainer", &[], rpc::create_container(request)).await?;
        Ok(answer.container_id)
    }

    /// CreateContainer and StartContainer; the id.
    pub async fn start(&self, config: v1::ContainerConfig) -> Result<String, Failure> {
        let container_id = self.create(config).await?;
        let request = v1::StartContainerRequest { container_id: container_id.clone() };
        self.caller.settle("StartContainer", &[], rpc::start_container(request)).await?;
        Ok(container_id)
    }

    /// A container that sleeps, and its process.
    pub async fn sleeper(&self, name: &str) -> Result<(String, Process)> {
        let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
        let id = self.start(self.container(name, script)).await.map_err(failed("start a sleeper"))?;
        let (_, process) = container_status(&self.caller, &id).await.map_err(failed("ContainerStatus"))?;
        Ok((id, process.context("a container that runs has no process")?))
    }

    /// ExecSync of a script.
    pub async fn exec(&self, id: &str, script: &str, seconds: i64) -> Result<v1::ExecSyncResponse, Failure> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: seconds,
        };
        self.caller.settle("ExecSync", &[], rpc::exec_sync(request)).await
    }

    /// StopContainer, once.
    pub async fn stop(&self, id: &str, seconds: i64) -> Result<(), Failure> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        self.caller.settle("StopContainer", &[], rpc::stop_container(request)).await.map(drop)
    }

    /// StopPodSandbox and RemovePodSandbox, once each.
    pub async fn end(&self) -> Result<(), Failure> {
        self.stop_pod().await?;
        self.remove().await
    }

    /// StopPodSandbox, once.
    pub async fn stop_pod(&self) -> Result<(), Failure> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.caller.settle("StopPodSandbox", &[], rpc::stop_pod_sandbox(request)).await.map(drop)
    }

    /// RemovePodSandbox, once.
    pub async fn remove(&self) -> Result<(), Failure> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.caller.settle("RemovePodSandbox", &[], rpc::remove_pod_sandbox(request)).await.map(drop)
    }

    /// Waits until a container has exited; its status and how long that took.
    pub async fn exited(&self, id: &str, limit: Duration) -> Result<(v1::ContainerStatus, Duration)> {
        let begin = Instant::now();
        loop {
            let (status, _) = container_status(&self.caller, id).await.map_err(failed("ContainerStatus"))?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok((status, begin.elapsed()));
            }
            if begin.elapsed() > limit {
                bail!("container {id} has not exited after {} s: {:?}", limit.as_secs(), status.state());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until the pod is NOTREADY; how long that took.
    pub async fn not_ready(&self, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let (status, _) = pod_status(&self.caller, &self.id).await.map_err(failed("PodSandboxStatus"))?;
            if status.state() == v1::PodSandboxState::SandboxNotready {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > limit {
                bail!("pod {} is READY after {} s", self.id, limit.as_secs());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Its pod's name.
pub const BYSTANDER: &str = "bystander";

/// A pod with a container that the fault must leave alone.
#[derive(Debug)]
pub struct Bystander {
    small: Small,
    container: String,
    process: Process,
}

impl Bystander {
    /// Runs it.
    pub async fn run(caller: &Caller) -> Result<Self> {
        let small = Small::run(caller, specs::PLAIN, BYSTANDER).await.map_err(failed("run a bystander"))?;
        let (container, process) = small.sleeper("main").await?;
        Ok(Self { small, container, process })
    }

    /// Notes a finding unless it runs, and can be asked.
    pub async fn check(&self, when: &str) {
        let caller = &self.small.caller;
        if !self.process.is_alive() {
            caller.found(Fault::ContainerLost, &format!("{when}: the bystander's process is gone"));
            return;
        }
        match container_status(caller, &self.container).await {
            Ok((status, _)) if status.state() == v1::ContainerState::ContainerRunning => {}
            Ok((status, _)) => {
                caller.found(Fault::ContainerLost, &format!("{when}: the bystander is {status:?}"));
            }
            Err(failure) => {
                caller.found(Fault::ContainerLost, &format!("{when}: the bystander: {failure}"));
            }
        }
    }

    /// Runs a command in it; how long that took.
    pub async fn exec(&self, when: &str) -> Duration {
        let begin = Instant::now();
        match self.small.exec(&self.container, "echo here", 10).await {
            Ok(answer) if answer.exit_code == 0 && answer.stdout == b"here\n" => {}
            Ok(answer) => {
                self.small.caller.found(Fault::WrongExec, &format!("{when}: the bystander: {answer:?}"));
            }
            Err(failure) => {
                let text = format!("{when}: an exec in the bystander: {failure}");
                self.small.caller.found(Fault::WrongExec, &text);
            }
        }
        begin.elapsed()
    }
}

/// A whole life: what must work again once a fault is over. It may take a few tries, since what is short does not come
/// back at once.
pub async fn recovers(caller: &Caller, limit: Duration) -> Duration {
    let begin = Instant::now();
    for number in 0.. {
        match life(caller, &format!("after-{number}")).await {
            Ok(()) => return begin.elapsed(),
            Err(error) if begin.elapsed() > limit => {
                let text = format!("no whole life of a pod {} s after the fault: {error:#}", limit.as_secs());
                caller.found(Fault::Stuck, &text);
                break;
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
    begin.elapsed()
}

async fn life(caller: &Caller, uid: &str) -> Result<()> {
    let small = Small::run(caller, specs::PLAIN, uid).await.map_err(failed("RunPodSandbox"))?;
    let lived = async {
        let (id, _) = small.sleeper("main").await?;
        let answer = small.exec(&id, "exit 3", 10).await.map_err(failed("ExecSync"))?;
        anyhow::ensure!(answer.exit_code == 3, "{answer:?}");
        small.stop(&id, 10).await.map_err(failed("StopContainer"))
    };
    let lived = lived.await;
    small.end().await.map_err(failed("the pod's end"))?;
    lived
}
