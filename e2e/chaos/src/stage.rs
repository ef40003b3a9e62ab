//! Everything that a run needs, made before it and gone after it: namespaces of its own, a registry with the test images, a
//! daemon, and a first look of the oracle at a machine on which every kind of pod has lived once.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{
    Oracle,
    agent::Settings,
    oracle::{Neighbours, Scope},
    place, process,
    registry::{Registry, write_mirror},
    scene::{self, BUSYBOX},
    specs::unique,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    daemon::{Daemon, Kind, Peer},
    events::Events,
    plan::PodShape,
    specs,
    world::{Up, World},
};

/// Hosts of images that the registry stands in for.
const HOSTS: [&str; 2] = ["registry.k8s.io", "holdfast.test"];
/// The bridge of the CNI configuration for ours; a peer brings its own.
pub const BRIDGE: &str = "hfchaos0";

/// Which runtime a run is about, and how it is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Another runtime than ours.
    pub peer: Option<Peer>,
    /// More lines for the table `runtime` of our configuration.
    pub runtime: String,
    /// Whether ours uses CNI plugins from the start.
    pub cni: bool,
    /// Mounted where the runtime keeps what outlives a boot.
    pub disk: Option<PathBuf>,
    /// Where the log of events goes.
    pub events: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// A directory of the run's own.
    pub dir: PathBuf,
    /// The daemon.
    pub daemon: Daemon,
    /// What its clients share.
    pub world: Arc<World>,
    /// Says whether it serves.
    pub up: watch::Sender<Up>,
    /// The look before the run.
    pub oracle: Option<Oracle>,
    /// Whether pods may have user namespaces.
    pub user_namespaces: bool,
    registry: Registry,
    _dir: tempfile::TempDir,
}

/// Network and mount namespaces for this thread and all that it makes. Mounts reach each other there as on a host, and do
/// not reach the host.
pub fn own_namespaces() -> Result<()> {
    process::become_reaper()?;
    scene::own_network()?;
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    process::stdout("mount", ["--make-rslave", "/"])?;
    process::stdout("mount", ["--make-rshared", "/"])?;
    fs::create_dir_all("/run/netns").context("make /run/netns")?;
    // Whoever pins the first network namespace makes that directory a mount point; here it is one, and empty.
    process::stdout("mount", ["-t", "tmpfs", "netns", "/run/netns"])?;
    process::stdout("mount", ["--make-shared", "/run/netns"]).map(drop)
}

impl Stage {
    /// Starts a registry and the daemon. In namespaces that are this run's own.
    pub async fn new(setup: &Setup) -> Result<Self> {
        let temp = tempfile::Builder::new()
            .prefix("hf-chaos-")
            .tempdir_in("/var/tmp")
            .context("make a directory")?;
        let dir = temp.path().to_owned();
        let registry = Registry::start(&dir)?;
        let kind = match &setup.peer {
            None => Kind::Ours(Box::new(ours(&dir, &registry, setup)?)),
            Some(peer) => Kind::Peer(prepare_peer(peer, &registry, setup)?),
        };
        let logs = dir.join("logs");
        fs::create_dir(&logs).context("make a directory for logs")?;
        let (up, seen) = watch::channel(Up::default());
        let world = Arc::new(World {
            socket: kind.socket(),
            logs,
            cgroup_parent: if kind.is_ours() { String::new() } else { kind.cgroup_parent().to_owned() },
            ledger: crate::ledger::Ledger::default(),
            events: Events::create(&setup.events)?,
            up: seen,
            sent: 0.into(),
            stop: false.into(),
        });
        let daemon = Daemon::new(kind, &dir.join("daemon.log"));
        let mut stage =
            Self { dir, daemon, world, up, oracle: None, user_namespaces: false, registry, _dir: temp };
        stage.start().await.context("the first start")?;
        Ok(stage)
    }

    /// Starts the daemon, and tells the clients.
    pub async fn start(&mut self) -> Result<Duration> {
        let time = self.daemon.start().await?;
        self.serves(time);
        Ok(time)
    }

    /// Tells the clients that the daemon serves.
    pub fn serves(&self, time: Duration) {
        let ms = time.as_secs_f64() * 1000.0;
        self.world.events.add("killer", "serves", &json!({"ms": ms, "pid": self.daemon.pid()}));
        self.up.send_modify(|up| *up = Up { generation: up.generation + 1, serving: true });
    }

    /// SIGKILL to the daemon, and tells the clients. Whether it was still there.
    pub fn kill(&mut self) -> Result<bool> {
        self.up.send_modify(|up| up.serving = false);
        let lived = self.daemon.kill()?;
        self.world.events.add("killer", "killed", &json!({"lived": lived}));
        Ok(lived)
    }

    /// kill -9 and a new start.
    pub async fn restart(&mut self) -> Result<Duration> {
        self.kill()?;
        self.start().await
    }

    /// An image of the registry that no pod runs.
    pub fn image(&self, name: &str) -> String {
        self.registry.image(name)
    }

    /// Lets a pod of each kind live once, so that what is made once (bridges, caches) is there, restarts the daemon, and
    /// looks.
    pub async fn look(&mut self) -> Result<()> {
        let image = specs::image(BUSYBOX);
        let request = holdfast_cri::v1::PullImageRequest { image: Some(image), ..Default::default() };
        let mut cri = crate::wire::Cri::to(&self.world.socket);
        cri.image.pull_image(request).await.context("pull the test image")?;
        let plain = specs::PLAIN;
        let users = PodShape { user_namespace: Some(1_000_000), ..plain };
        let mut shapes = vec![
            specs::ON_HOST,
            PodShape { host_port: Some(19_999), ..plain },
            PodShape { shared_pid: true, ..plain },
        ];
        if self.world_has_user_namespaces(&mut cri, users).await? {
            shapes.push(users);
            self.user_namespaces = true;
        }
        for shape in shapes {
            self.live_once(&mut cri, shape).await.with_context(|| format!("warm up {shape:?}"))?;
        }
        if let Kind::Ours(settings) = self.daemon.kind() {
            let settings = settings.clone();
            let has = settings.cni_conf_dir().join(CONF_LIST).exists();
            self.use_cni(!has)?;
            self.restart().await?;
            self.live_once(&mut cri, PodShape { host_port: Some(19_998), ..plain })
                .await
                .context("warm up CNI")?;
            self.use_cni(has)?;
        }
        self.restart().await?;
        // The connection that asked whether it serves is closed by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let oracle = Oracle::look(self.scope())?;
        self.oracle = Some(oracle);
        Ok(())
    }

    /// Whether the runtime can do user namespaces here: not every one can on every kernel.
    async fn world_has_user_namespaces(&self, cri: &mut crate::wire::Cri, shape: PodShape) -> Result<bool> {
        match self.live_once(cri, shape).await {
            Ok(()) => Ok(true),
            Err(error) if self.daemon.kind().is_ours() => Err(error),
            Err(error) => {
                println!(
                    "NOTE: {} runs no pods with user namespaces here: {error:#}",
                    self.daemon.kind().name()
                );
                for pod in cri
                    .runtime
                    .list_pod_sandbox(holdfast_cri::v1::ListPodSandboxRequest::default())
                    .await?
                    .into_inner()
                    .items
                {
                    let pod_sandbox_id = pod.id;
                    let request = holdfast_cri::v1::RemovePodSandboxRequest { pod_sandbox_id };
                    cri.runtime.remove_pod_sandbox(request).await.context("remove a failed pod")?;
                }
                Ok(false)
            }
        }
    }

    /// A whole life without a check.
    async fn live_once(&self, cri: &mut crate::wire::Cri, shape: PodShape) -> Result<()> {
        use holdfast_cri::v1;
        let uid = format!("warm-up-{}", unique());
        let config = specs::pod(shape, &uid, 0, &self.world.logs, &self.world.cgroup_parent);
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let pod_sandbox_id =
            cri.runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
        let container = specs::container(shape, "main", 0, "sleep 3600");
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container_id =
            cri.runtime.create_container(request).await.context("CreateContainer")?.into_inner().container_id;
        let request = v1::StartContainerRequest { container_id: container_id.clone() };
        cri.runtime.start_container(request).await.context("StartContainer")?;
        let cmd = vec!["true".to_owned()];
        let request = v1::ExecSyncRequest { container_id, cmd, timeout: 10 };
        cri.runtime.exec_sync(request).await.context("ExecSync")?;
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        cri.runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
        cri.runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox").map(drop)
    }

    /// Whether ours uses CNI from its next start on.
    pub fn use_cni(&self, cni: bool) -> Result<()> {
        let Kind::Ours(settings) = self.daemon.kind() else { return Ok(()) };
        conf_list(settings, cni)
    }

    /// Gives ours these CNI plugins.
    pub fn use_plugins(&self, plugins: &[Value]) -> Result<()> {
        let Kind::Ours(settings) = self.daemon.kind() else { return Ok(()) };
        write_conf_list(settings, plugins)
    }

    /// Address management for them.
    pub fn ipam(&self) -> Value {
        ipam(&self.dir)
    }

    /// Where the disk of the setup is mounted: all that the runtime keeps over a boot lies there.
    pub fn disk(&self) -> Option<PathBuf> {
        self.daemon.kind().directories().into_iter().next()
    }

    /// What the oracle looks at.
    pub fn scope(&self) -> Scope {
        let mut directories = self.daemon.kind().directories();
        // Addresses that CNI plugins have given.
        directories.push(self.dir.join("addresses"));
        Scope {
            dir: self.dir.clone(),
            directories,
            agent: self.daemon.pid(),
            cgroup: Some(self.daemon.kind().cgroup_parent().to_owned()),
            ours: true,
            log: Some(self.dir.join("daemon.log")),
            neighbours: Neighbours::Unknown,
        }
    }

    /// Keeps the daemon's log beside that of events.
    pub fn keep_log(&self) {
        let kept = self.world.events.path.with_extension("daemon.log");
        let _ = fs::copy(self.dir.join("daemon.log"), kept);
    }
}

impl Drop for Stage {
    /// Ends all that is left: the next run counts the machine.
    fn drop(&mut self) {
        let scope = self.scope();
        let _ = self.daemon.kill();
        let _ = process::end_descendants();
        scope.sweep();
        if let Kind::Peer(peer) = self.daemon.kind() {
            for dir in &peer.directories {
                Scope { dir: dir.clone(), ..Scope::default() }.sweep();
                let _ = process::run(std::process::Command::new("umount").arg("-l").arg(dir));
            }
        }
        for link in [BRIDGE, Settings::BRIDGE, "hfpeer0"] {
            let _ = process::stdout("ip", ["link", "del", link]);
        }
        let _ = process::stdout("nft", ["flush", "ruleset"]);
    }
}

fn mount_disk(setup: &Setup, at: &Path) -> Result<()> {
    let Some(disk) = &setup.disk else { return Ok(()) };
    let args = ["-o", "loop"].map(Path::new).into_iter().chain([disk.as_path(), at]);
    process::stdout("mount", args).map(drop)
}

/// Settings of our own agent.
fn ours(dir: &Path, registry: &Registry, setup: &Setup) -> Result<Settings> {
    let kept = dir.join("kept");
    fs::create_dir(&kept).context("make a directory")?;
    let mut settings = Settings::new(&kept, unique());
    fs::create_dir(settings.root()).context("make a directory")?;
    mount_disk(setup, &settings.root())?;
    for host in HOSTS {
        settings.mirrors.push((host.to_owned(), registry.address.clone()));
    }
    settings.runtime.clone_from(&setup.runtime);
    settings.cni_bin_dirs.insert(0, dir.join("plugins"));
    fs::create_dir(dir.join("plugins")).context("make a directory for plugins")?;
    conf_list(&settings, setup.cni)?;
    ensure!(place::holdfast().exists(), "{} is not there", place::holdfast().display());
    Ok(settings)
}

/// Name of the CNI configuration.
const CONF_LIST: &str = "10-chaos.conflist";

/// A bridge, addresses from files and host ports: what a node usually has.
fn conf_list(settings: &Settings, there: bool) -> Result<()> {
    let file = settings.cni_conf_dir().join(CONF_LIST);
    if !there {
        set_mode(settings, "embedded")?;
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        };
    }
    let dir = settings.dir.parent().context("a directory above")?;
    write_conf_list(
        settings,
        &[
            json!({"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "ipam": ipam(dir)}),
            json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        ],
    )
}

fn write_conf_list(settings: &Settings, plugins: &[Value]) -> Result<()> {
    set_mode(settings, "cni")?;
    let file = settings.cni_conf_dir().join(CONF_LIST);
    let list = json!({"cniVersion": "1.0.0", "name": "chaos", "plugins": plugins});
    fs::write(&file, list.to_string()).with_context(|| format!("write {}", file.display()))
}

fn set_mode(settings: &Settings, mode: &'static str) -> Result<()> {
    Settings { network_mode: Some(mode), ..settings.clone() }.write()
}

/// Addresses from files below the run's directory.
fn ipam(dir: &Path) -> Value {
    json!({"type": "host-local", "dataDir": dir.join("addresses"), "ranges": [[{"subnet": "10.213.202.0/23"}]],
           "routes": [{"dst": "0.0.0.0/0"}]})
}

/// Empty directories, and the registry in the place of the images' hosts.
fn prepare_peer(peer: &Peer, registry: &Registry, setup: &Setup) -> Result<Peer> {
    for dir in &peer.directories {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    if let Some(first) = peer.directories.first() {
        mount_disk(setup, first)?;
    }
    for host in HOSTS {
        write_mirror(&peer.mirrors, host, &registry.address)?;
    }
    if peer.command.is_empty() {
        bail!("no command of {}", peer.name);
    }
    Ok(peer.clone())
}
