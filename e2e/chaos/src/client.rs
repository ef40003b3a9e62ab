//! A client that runs pods, one after the other, and checks all that it is told.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_cri::v1;
use tokio::time::sleep;

use crate::{
    ask::{TRIES, container_status, image_status, pod_status, remove_pod, stop_pod},
    claims::{self, Container, Pod, Told},
    kernel,
    ledger::Fault,
    plan::{Action, Life, Plan, Script, Step},
    rpc, specs,
    verify::{self, judge_ended, judge_memory, status_of},
    wire::Cri,
    world::{Caller, Failure, World},
};

/// How often Run and Create are, before another attempt is made.
const TRIES_TO_MAKE: usize = 4;
/// Longest wait for what a container does by itself.
const SCRIPT_LIMIT: Duration = Duration::from_mins(1);
/// A grace period that a container needs no part of.
const GRACE_S: i64 = 60;
/// Limit of an exec.
const EXEC_S: i64 = 60;

/// What a client leaves.
#[derive(Debug, Default)]
pub struct Left {
    /// Its pod, if it was in the middle of its life.
    pub pod: Option<Pod>,
    /// Names of pods that it gave up: of them anything may be left.
    pub given_up: Vec<String>,
    /// Its image, if it was told as pulled and not as removed.
    pub image: Option<String>,
    /// Lives that it finished.
    pub lives: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    caller: Caller,
    number: usize,
    plan: Plan,
    /// The image that it alone pulls and removes.
    image: Option<String>,
    /// The start of the server for which all was last compared.
    compared: u64,
    left: Left,
}

/// The pod cannot be gone on with.
struct GivenUp;

impl Client {
    /// `image` is no other client's; without one it neither pulls nor removes any.
    pub fn new(world: &Arc<World>, number: usize, plan: Plan, image: Option<String>) -> Self {
        let caller = Caller::new(world, &format!("client {number}"));
        Self { caller, number, plan, image, compared: 0, left: Left::default() }
    }

    /// Lives until clients are told to end; the pod of that moment stays as it is.
    pub async fn run(mut self) -> Left {
        let mut round = 0_u64;
        while !self.caller.is_over() {
            let Some(life) = self.plan.next() else { break };
            let uid = format!("c{}-{round}", self.number);
            round += 1;
            let Ok(pod) = self.run_pod(&life, &uid).await else {
                self.left.given_up.push(uid);
                continue;
            };
            self.left.pod = Some(pod);
            if self.live(&life).await.is_err() {
                self.left.given_up.extend(self.left.pod.take().map(|pod| pod.uid));
            } else if self.left.pod.is_none() {
                self.left.lives += 1;
            }
        }
        self.left
    }

    async fn live(&mut self, life: &Life) -> Result<(), GivenUp> {
        for step in &life.steps {
            if self.caller.is_over() {
                return Ok(());
            }
            if self.caller.generation() != self.compared {
                self.compared = self.caller.generation();
                self.verify().await?;
            }
            self.step(life, step).await?;
        }
        Ok(())
    }

    /// The pod of now.
    fn pod(&self) -> Result<&Pod, GivenUp> {
        self.left.pod.as_ref().ok_or(GivenUp)
    }

    fn container(&mut self, number: usize) -> Option<&mut Container> {
        self.left.pod.as_mut()?.containers.iter_mut().find(|container| container.number == number)
    }

    async fn step(&mut self, life: &Life, step: &Step) -> Result<(), GivenUp> {
        let cuts = &step.cuts;
        match step.action {
            Action::Create(number) => self.create(life, number, cuts).await,
            Action::Start(number) => self.start(number, cuts).await,
            Action::Await(number) => self.await_end(number).await,
            Action::Exec(number, code) => self.exec(number, code, cuts).await,
            Action::Update(number, mib) => self.update(number, mib, cuts).await,
            Action::Verify => self.verify().await,
            Action::List => self.list().await,
            Action::Stop(number, grace) => self.stop(number, grace, cuts).await,
            Action::Remove(number) => self.remove(number, cuts).await,
            Action::Pull => self.pull(cuts).await,
            Action::RemoveImage => self.remove_image(cuts).await,
            Action::StopPod => self.stop_pod(cuts).await,
            Action::RemovePod => self.remove_pod(cuts).await,
        }
    }

    async fn run_pod(&mut self, life: &Life, uid: &str) -> Result<Pod, GivenUp> {
        let world = self.caller.world.clone();
        let before = self.caller.generation();
        let mut cuts = life.cuts.as_slice();
        for attempt in 0..2 {
            let config = specs::pod(life.shape, uid, attempt, &world.logs, &world.cgroup_parent);
            let request =
                v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
            let call = rpc::run_pod_sandbox(request);
            match self.make("RunPodSandbox", std::mem::take(&mut cuts), call).await {
                Ok(answer) => {
                    let mut pod = Pod {
                        id: answer.pod_sandbox_id,
                        uid: uid.to_owned(),
                        config,
                        shape: life.shape,
                        ips: Vec::new(),
                        holder: None,
                        stopped: false,
                        containers: Vec::new(),
                    };
                    let (status, holder) = pod_status(&self.caller, &pod.id).await.map_err(|_| GivenUp)?;
                    (pod.ips, pod.holder) = (claims::ips(&status), holder);
                    if !life.cuts.is_empty() || self.caller.generation() != before {
                        verify::list(&self.caller, &pod).await.map_err(|_| GivenUp)?;
                    }
                    return Ok(pod);
                }
                Err(Failure::Refused { .. }) => {}
                Err(Failure::Silence) => return Err(GivenUp),
            }
        }
        self.caller.found(Fault::Stuck, &format!("RunPodSandbox of {uid}: refused, another attempt as well"));
        Err(GivenUp)
    }

    /// A call that makes something: asked again when refused, as a kubelet would. If it was a retry that was refused, that
    /// is a finding.
    async fn make<T, F>(
        &self,
        method: &str,
        mut cuts: &[Duration],
        call: impl Fn(Cri) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let mut result = self.caller.settle(method, std::mem::take(&mut cuts), &call).await;
        if let Err(failure @ Failure::Refused { again: true, .. }) = &result {
            self.caller.found(Fault::RetryRefused, &format!("{method}: {failure}"));
        }
        for _ in 1..TRIES_TO_MAKE {
            if !matches!(result, Err(Failure::Refused { .. })) {
                break;
            }
            sleep(Duration::from_millis(250)).await;
            result = self.caller.settle(method, &[], &call).await;
        }
        result
    }

    async fn create(&mut self, life: &Life, number: usize, cuts: &[Duration]) -> Result<(), GivenUp> {
        let pod = self.pod()?;
        let token = format!("{}-{number}", pod.uid);
        let (script, name) = (life.scripts[number], format!("n{number}"));
        let (before, was_cut) = (self.caller.generation(), !cuts.is_empty());
        let mut cuts = cuts;
        for attempt in 0..2 {
            let config = specs::container(life.shape, &name, attempt, &script.text(&token));
            let log = PathBuf::from(&pod.config.log_directory).join(&config.log_path);
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(config),
                sandbox_config: Some(pod.config.clone()),
            };
            let call = rpc::create_container(request);
            match self.make("CreateContainer", std::mem::take(&mut cuts), call).await {
                Ok(answer) => {
                    let container = Container {
                        id: answer.container_id,
                        number,
                        script,
                        token,
                        log,
                        told: Told::Created,
                        process: None,
                        started_at: 0,
                        memory: None,
                    };
                    self.left.pod.as_mut().ok_or(GivenUp)?.containers.push(container);
                    if was_cut || self.caller.generation() != before {
                        self.list().await?;
                    }
                    return Ok(());
                }
                Err(Failure::Refused { .. }) => {}
                Err(Failure::Silence) => return Err(GivenUp),
            }
        }
        self.caller.found(Fault::Stuck, &format!("CreateContainer of {token}: refused twice"));
        Err(GivenUp)
    }

    async fn start(&mut self, number: usize, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let request = v1::StartContainerRequest { container_id: container.id.clone() };
        let call = rpc::start_container(request);
        match caller.settle("StartContainer", cuts, call).await {
            Ok(_) => {}
            Err(failure @ Failure::Refused { again, .. }) => {
                let (status, _) = status_of(&caller, container).await.map_err(|_| GivenUp)?;
                let created = status.state() == v1::ContainerState::ContainerCreated;
                let fault = if again && !created { Fault::RetryRefused } else { Fault::Stuck };
                caller.found(fault, &format!("StartContainer of {}: {failure}", container.token));
                if created {
                    return Err(GivenUp);
                }
            }
            Err(Failure::Silence) => return Err(GivenUp),
        }
        container.told = Told::Started;
        let (status, process) = status_of(&caller, container).await.map_err(|_| GivenUp)?;
        container.process = process;
        container.started_at = status.started_at;
        let alive = process.map(kernel::Process::is_alive);
        if let Err((fault, text)) = container.judge(&status, alive) {
            caller.found(fault, &text);
        }
        if matches!(container.script, Script::Sleeper { .. }) {
            return until(SCRIPT_LIMIT, || claims::has_printed(&container.log)).await.map_err(|()| {
                caller.found(Fault::WrongLog, &format!("container {} printed nothing", container.token));
                GivenUp
            });
        }
        Ok(())
    }

    async fn await_end(&mut self, number: usize) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let begin = Instant::now();
        loop {
            let (status, _) = status_of(&caller, container).await.map_err(|_| GivenUp)?;
            if status.state() == v1::ContainerState::ContainerExited {
                judge_ended(&caller, container, &status);
                return Ok(());
            }
            if begin.elapsed() > SCRIPT_LIMIT {
                caller.found(Fault::WrongState, &format!("container {} does not end", container.token));
                return Err(GivenUp);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn exec(&mut self, number: usize, code: u8, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let script = format!("echo out {code}; echo err {code} >&2; exit {code}");
        let request = v1::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: vec!["sh".into(), "-c".into(), script],
            timeout: EXEC_S,
        };
        let call = rpc::exec_sync(request);
        match caller.insist("ExecSync", TRIES_TO_MAKE, cuts, call).await {
            Ok(answer) => {
                let right = answer.exit_code == i32::from(code)
                    && answer.stdout == format!("out {code}\n").as_bytes()
                    && answer.stderr == format!("err {code}\n").as_bytes();
                if !right {
                    caller.found(Fault::WrongExec, &format!("{} ({code}): {answer:?}", container.token));
                }
                Ok(())
            }
            Err(_) => Err(GivenUp),
        }
    }

    async fn update(&mut self, number: usize, mib: u32, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let bytes = i64::from(mib) << 20;
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: Some(specs::memory(bytes)),
            ..Default::default()
        };
        let call = rpc::update_container_resources(request);
        caller.insist("UpdateContainerResources", TRIES_TO_MAKE, cuts, call).await.map_err(|_| GivenUp)?;
        container.memory = Some(bytes);
        let (status, _) = status_of(&caller, container).await.map_err(|_| GivenUp)?;
        judge_memory(&caller, container, &status);
        Ok(())
    }

    /// Asks for everything that the client knows and compares.
    async fn verify(&mut self) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(pod) = &mut self.left.pod else { return Ok(()) };
        verify::verify(&caller, pod).await.map_err(|_| GivenUp)
    }

    async fn list(&mut self) -> Result<(), GivenUp> {
        verify::list(&self.caller, self.pod()?).await.map_err(|_| GivenUp)
    }

    async fn stop(&mut self, number: usize, grace: bool, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let timeout = if grace { GRACE_S } else { 0 };
        let request = v1::StopContainerRequest { container_id: container.id.clone(), timeout };
        let call = rpc::stop_container(request);
        caller.insist("StopContainer", TRIES, cuts, call).await.map_err(|_| GivenUp)?;
        container.told = if grace { Told::Stopped } else { Told::Killed };
        let (status, _) = status_of(&caller, container).await.map_err(|_| GivenUp)?;
        judge_ended(&caller, container, &status);
        Ok(())
    }

    async fn remove(&mut self, number: usize, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(container) = self.container(number) else { return Ok(()) };
        let request = v1::RemoveContainerRequest { container_id: container.id.clone() };
        let call = rpc::remove_container(request);
        caller.insist("RemoveContainer", TRIES, cuts, call).await.map_err(|_| GivenUp)?;
        if container.process.is_some_and(kernel::Process::is_alive) {
            caller.found(Fault::NotGone, &format!("container {}: removed, and it runs", container.token));
        }
        let id = container.id.clone();
        if let Some(pod) = &mut self.left.pod {
            pod.containers.retain(|container| container.id != id);
        }
        match container_status(&caller.expecting_refusals(), &id).await {
            Err(failure) if failure.is_not_found() => {}
            Err(_) => return Err(GivenUp),
            Ok((status, _)) => caller.found(Fault::NotGone, &format!("a removed container: {status:?}")),
        }
        Ok(())
    }

    async fn pull(&mut self, cuts: &[Duration]) -> Result<(), GivenUp> {
        let Some(image) = self.image.clone() else { return Ok(()) };
        let request = v1::PullImageRequest { image: Some(specs::image(&image)), ..Default::default() };
        let call = rpc::pull_image(request);
        self.caller.insist("PullImage", TRIES, cuts, call).await.map_err(|_| GivenUp)?;
        self.left.image = Some(image.clone());
        self.image_is(&image, true).await
    }

    async fn remove_image(&mut self, cuts: &[Duration]) -> Result<(), GivenUp> {
        let Some(image) = self.left.image.clone() else { return Ok(()) };
        self.image_is(&image, true).await?;
        let request = v1::RemoveImageRequest { image: Some(specs::image(&image)) };
        let call = rpc::remove_image(request);
        self.caller.insist("RemoveImage", TRIES, cuts, call).await.map_err(|_| GivenUp)?;
        self.left.image = None;
        self.image_is(&image, false).await
    }

    async fn image_is(&self, image: &str, there: bool) -> Result<(), GivenUp> {
        let found = image_status(&self.caller, image).await.map_err(|_| GivenUp)?;
        if found != there {
            let text = if there { "pulled, and not there" } else { "removed, and there" };
            let fault = if there { Fault::WrongState } else { Fault::NotGone };
            self.caller.found(fault, &format!("image {image}: {text}"));
        }
        Ok(())
    }

    async fn stop_pod(&mut self, cuts: &[Duration]) -> Result<(), GivenUp> {
        let caller = self.caller.clone();
        let Some(pod) = &mut self.left.pod else { return Ok(()) };
        stop_pod(&caller, &pod.id, cuts).await.map_err(|_| GivenUp)?;
        pod.stopped = true;
        for container in &mut pod.containers {
            container.told = match container.told {
                Told::Created => Told::Over,
                Told::Started => Told::Killed,
                told => told,
            };
        }
        self.verify().await
    }

    async fn remove_pod(&mut self, cuts: &[Duration]) -> Result<(), GivenUp> {
        let pod = self.pod()?.clone();
        remove_pod(&self.caller, &pod.id, cuts).await.map_err(|_| GivenUp)?;
        let processes = pod.containers.iter().filter_map(|container| container.process).chain(pod.holder);
        for process in processes.filter(|process| process.is_alive()) {
            let text = format!("pod {}: removed, and process {} runs", pod.uid, process.pid);
            self.caller.found(Fault::NotGone, &text);
        }
        self.left.pod = None;
        let _ = std::fs::remove_dir_all(&pod.config.log_directory);
        match pod_status(&self.caller.expecting_refusals(), &pod.id).await {
            Err(failure) if failure.is_not_found() => Ok(()),
            Err(_) => Err(GivenUp),
            Ok((status, _)) => {
                self.caller.found(Fault::NotGone, &format!("a removed pod: {status:?}"));
                Ok(())
            }
        }
    }
}

/// Waits for a condition.
async fn until(limit: Duration, mut probe: impl FnMut() -> bool) -> Result<(), ()> {
    let begin = Instant::now();
    while !probe() {
        if begin.elapsed() > limit {
            return Err(());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
