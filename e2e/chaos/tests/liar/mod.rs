//! A runtime without a container in it: it answers CRI from memory, writes the logs that scripts would, and lies in one
//! chosen way.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use holdfast_cri::v1::{
    self,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use tokio::{
    net::UnixListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    None,
    /// A container that runs is not known.
    ForgetContainer,
    /// A container that runs has exited.
    EndContainer,
    /// A pod is NOTREADY by itself.
    StopPod,
    /// An exit code is one more.
    ExitCode,
    /// A log has no last line.
    LogLine,
    /// An exec prints what another one would.
    ExecOutput,
    /// An update changes nothing.
    MemoryLimit,
    /// A container started later than it did.
    Restart,
    /// A removed pod stays.
    KeepPod,
    /// A name is taken, whoever asks.
    RefuseAgain,
    /// A pod of the same name is another pod.
    MakeTwice,
}

#[derive(Debug, Clone)]
struct Container {
    pod: String,
    config: v1::ContainerConfig,
    state: v1::ContainerState,
    log: PathBuf,
    code: i32,
    memory: i64,
    started_at: i64,
    asked: u32,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pods: BTreeMap<String, (v1::PodSandboxConfig, bool)>,
    containers: BTreeMap<String, Container>,
    images: Vec<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Liar {
    lie: Lie,
    state: Arc<Mutex<State>>,
}

/// It serves in a runtime of its own.
#[derive(Debug)]
pub struct Server(Option<Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

impl Liar {
    pub fn new(lie: Lie) -> Self {
        Self { lie, state: Arc::default() }
    }

    /// Serves until the result is dropped, and all connections with it.
    pub fn serve(&self, socket: &Path) -> Result<Server> {
        let _ = fs::remove_file(socket);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let guard = runtime.enter();
        let listener = UnixListener::bind(socket).context("bind")?;
        drop(guard);
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(async move { drop(server.await) });
        Ok(Server(Some(runtime)))
    }

    fn run(&self, config: v1::PodSandboxConfig) -> Answer<v1::RunPodSandboxResponse> {
        let mut state = self.state();
        let same = state.pods.iter().find(|(_, (known, _))| known.metadata == config.metadata);
        let same = same.map(|(id, _)| id.clone());
        if same.is_some() && self.lie == Lie::RefuseAgain {
            return Err(Status::already_exists("the name is taken"));
        }
        let pod_sandbox_id = same.filter(|_| self.lie != Lie::MakeTwice).unwrap_or_else(|| {
            let id = state.id();
            state.pods.insert(id.clone(), (config, true));
            id
        });
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("{:064x}", self.next)
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| Status::not_found("no such container"))
    }
}

impl Container {
    fn script(&self) -> &str {
        self.config.command.last().map_or("", String::as_str)
    }

    fn sleeps(&self) -> bool {
        self.script().starts_with("trap")
    }

    fn print(&self, lines: &[String]) {
        if let Some(dir) = self.log.parent() {
            let _ = fs::create_dir_all(dir);
        }
        if let Ok(mut log) = fs::File::options().create(true).append(true).open(&self.log) {
            let lines: Vec<String> =
                lines.iter().map(|line| format!("2026-12-01T00:00:00Z stdout F {line}\n")).collect();
            let _ = log.write_all(lines.concat().as_bytes());
        }
    }

    /// The word behind `marker` in its script.
    fn word(&self, marker: &str) -> String {
        let rest = self.script().split(marker).nth(1).unwrap_or_default();
        rest.split([';', '\'', ' ']).next().unwrap_or_default().to_owned()
    }

    fn start(&mut self, shorter: bool) {
        self.started_at = 1;
        if self.sleeps() {
            self.state = v1::ContainerState::ContainerRunning;
            self.print(&[format!("up {}", self.word("echo up "))]);
            return;
        }
        let lines: usize = self.word("-lt ").parse().unwrap_or_default();
        let token = self.word("echo line $i ");
        let lines: Vec<String> = (0..lines).map(|number| format!("line {number} {token}")).collect();
        self.print(&lines[..lines.len().saturating_sub(usize::from(shorter))]);
        self.end();
    }

    fn end(&mut self) {
        self.code = self.script().rsplit("exit ").next().map_or(0, |rest| {
            rest.split(['\'', ' ']).next().and_then(|code| code.parse().ok()).unwrap_or_default()
        });
        self.state = v1::ContainerState::ContainerExited;
    }

    fn kill(&mut self) {
        if self.state == v1::ContainerState::ContainerRunning {
            (self.state, self.code) = (v1::ContainerState::ContainerExited, 137);
        }
    }
}

#[tonic::async_trait]
impl RuntimeService for Liar {
    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let answer = self.run(request.into_inner().config.unwrap_or_default());
        // So long that an impatient client asks again.
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        answer
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut state = self.state();
        if let Some((_, ready)) = state.pods.get_mut(&id) {
            *ready = false;
        }
        state.containers.values_mut().filter(|container| container.pod == id).for_each(Container::kill);
        Ok(Response::new(v1::StopPodSandboxResponse::default()))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        if self.lie != Lie::KeepPod {
            let mut state = self.state();
            state.pods.remove(&id);
            state.containers.retain(|_, container| container.pod != id);
        }
        Ok(Response::new(v1::RemovePodSandboxResponse::default()))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let state = self.state();
        let (config, ready) = state.pods.get(&id).ok_or_else(|| Status::not_found("no such pod"))?;
        let ready = *ready && self.lie != Lie::StopPod;
        let state =
            if ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready };
        let status = v1::PodSandboxStatus {
            id,
            metadata: config.metadata.clone(),
            state: state.into(),
            ..Default::default()
        };
        Ok(Response::new(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let labels = request.into_inner().filter.unwrap_or_default().label_selector;
        let state = self.state();
        let wanted = |config: &v1::PodSandboxConfig| {
            labels.iter().all(|(key, value)| config.labels.get(key) == Some(value))
        };
        let items = state.pods.iter().filter(|(_, (config, _))| wanted(config)).map(|(id, (config, _))| {
            v1::PodSandbox { id: id.clone(), metadata: config.metadata.clone(), ..Default::default() }
        });
        Ok(Response::new(v1::ListPodSandboxResponse { items: items.collect() }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let (config, pod) = (request.config.unwrap_or_default(), request.pod_sandbox_id);
        let log = Path::new(&request.sandbox_config.unwrap_or_default().log_directory).join(&config.log_path);
        let mut state = self.state();
        let same = state.containers.iter().find(|(_, known)| known.pod == pod && known.config == config);
        let same = same.map(|(id, _)| id.clone());
        let id = same.unwrap_or_else(|| {
            let id = state.id();
            let container = Container {
                pod,
                config,
                log,
                state: v1::ContainerState::ContainerCreated,
                code: 0,
                memory: 0,
                started_at: 0,
                asked: 0,
            };
            state.containers.insert(id.clone(), container);
            id
        });
        Ok(Response::new(v1::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut state = self.state();
        let container = state.container(&id)?;
        if container.state == v1::ContainerState::ContainerCreated {
            container.start(self.lie == Lie::LogLine);
        }
        Ok(Response::new(v1::StartContainerResponse::default()))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let mut state = self.state();
        let container = state.container(&request.container_id)?;
        if container.state == v1::ContainerState::ContainerRunning {
            if request.timeout == 0 {
                container.kill();
            } else {
                container.print(&[format!("bye {}", container.word("echo bye "))]);
                container.code =
                    container.word("; exit ").parse().map_err(|_| Status::internal("no code in a script"))?;
                container.state = v1::ContainerState::ContainerExited;
            }
        }
        Ok(Response::new(v1::StopContainerResponse::default()))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.state().containers.remove(&request.into_inner().container_id);
        Ok(Response::new(v1::RemoveContainerResponse::default()))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let pod = request.into_inner().filter.unwrap_or_default().pod_sandbox_id;
        let state = self.state();
        let of_the_pod = state.containers.iter().filter(|(_, container)| container.pod == pod);
        let containers = of_the_pod.map(|(id, _)| v1::Container { id: id.clone(), ..Default::default() });
        Ok(Response::new(v1::ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let mut state = self.state();
        let container = state.container(&id)?;
        container.asked += 1;
        let (runs, again) = (container.state == v1::ContainerState::ContainerRunning, container.asked > 1);
        if runs && again && self.lie == Lie::ForgetContainer {
            return Err(Status::not_found("no such container"));
        }
        let lies = |lie| self.lie == lie && runs && again;
        let shown =
            if lies(Lie::EndContainer) { v1::ContainerState::ContainerExited } else { container.state };
        let linux =
            v1::LinuxContainerResources { memory_limit_in_bytes: container.memory, ..Default::default() };
        let status = v1::ContainerStatus {
            id,
            state: shown.into(),
            exit_code: container.code + i32::from(self.lie == Lie::ExitCode),
            started_at: container.started_at + i64::from(lies(Lie::Restart)),
            resources: Some(v1::ContainerResources { linux: Some(linux), ..Default::default() }),
            ..Default::default()
        };
        Ok(Response::new(v1::ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        if self.lie != Lie::MemoryLimit {
            let bytes = request.linux.unwrap_or_default().memory_limit_in_bytes;
            self.state().container(&request.container_id)?.memory = bytes;
        }
        Ok(Response::new(v1::UpdateContainerResourcesResponse::default()))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let script = request.into_inner().cmd.pop().unwrap_or_default();
        let code: i32 = script.rsplit(' ').next().and_then(|code| code.parse().ok()).unwrap_or(-1);
        let shown = code + i32::from(self.lie == Lie::ExecOutput);
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: format!("out {shown}\n").into(),
            stderr: format!("err {code}\n").into(),
            exit_code: code,
        }))
    }
}

#[tonic::async_trait]
impl ImageService for Liar {
    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let found = self.state().images.contains(&name);
        let image = found.then(v1::Image::default);
        Ok(Response::new(v1::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.state().images.push(name);
        Ok(Response::new(v1::PullImageResponse::default()))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.state().images.retain(|known| *known != name);
        Ok(Response::new(v1::RemoveImageResponse::default()))
    }
}
