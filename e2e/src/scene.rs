//! Everything that a test needs, made before it and gone after it: a network namespace of the test's own, a
//! registry with the test images, an agent, a client. Scenes follow each other: the oracle counts the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::{
    agent::{Agent, Settings},
    crictl::Crictl,
    oracle::{Neighbours, Oracle, Scope},
    place, process,
    registry::Registry,
    specs,
};

static TURN: Mutex<()> = Mutex::new(());

/// The image that most tests use.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// Hosts of images that the scene's registry stands in for.
const HOSTS: [&str; 2] = ["registry.k8s.io", "holdfast.test"];

/// A test's surroundings.
#[derive(Debug)]
pub struct Scene {
    /// A directory of the test's own.
    pub dir: PathBuf,
    /// The client.
    pub crictl: Crictl,
    /// The registry.
    pub registry: Registry,
    /// The agent; `None` when another runtime's endpoint was given.
    pub agent: Option<Agent>,
    // Dropped last.
    _dir: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// For a test that any CRI runtime should pass. `None`, and a line that says why, if it cannot run here.
    pub fn any() -> Result<Option<Self>> {
        Self::with(|_| {})
    }

    /// For a test of what is our own: needs our agent.
    pub fn ours() -> Result<Option<Self>> {
        Self::ours_with(|_| {})
    }

    /// The same with other settings.
    pub fn ours_with(change: impl FnOnce(&mut Settings)) -> Result<Option<Self>> {
        if place::endpoint().is_some() {
            println!("SKIP: another runtime's endpoint was given, and this test is about ours");
            return Ok(None);
        }
        Self::with(change)
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Result<Option<Self>> {
        if let Some(reason) = missing()? {
            println!("SKIP: {reason}");
            return Ok(None);
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        process::become_reaper()?;
        let temp =
            tempfile::Builder::new().prefix("hf-e2e-").tempdir_in("/var/tmp").context("make a directory")?;
        let dir = temp.path().to_owned();
        let (agent, registry, crictl) = if let Some(endpoint) = place::endpoint() {
            let registry = Registry::start(&dir)?;
            if let Some(mirrors) = place::mirrors() {
                registry.stand_in(&mirrors, &HOSTS)?;
            }
            (None, registry, Crictl::new(&endpoint))
        } else {
            own_network()?;
            let registry = Registry::start(&dir)?;
            let mut settings = Settings::new(&dir, specs::unique());
            for host in HOSTS {
                settings.mirrors.push((host.to_owned(), registry.address.clone()));
            }
            change(&mut settings);
            let agent = Agent::start(settings)?;
            let crictl = agent.crictl();
            (Some(agent), registry, crictl)
        };
        Ok(Some(Self { dir, crictl, registry, agent, _dir: temp, _turn: turn }))
    }

    /// Our agent.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("there is no agent of ours")
    }

    /// The socket of our agent.
    pub fn socket(&self) -> Result<PathBuf> {
        Ok(self.agent.as_ref().context("there is no agent of ours")?.settings.socket())
    }

    /// Runs a small pod through its life, so that what is made once (bridge, caches) is there, then looks.
    pub fn oracle(&self) -> Result<Oracle> {
        self.crictl.ok(&["pull", BUSYBOX]).context("warm up")?;
        let pod = specs::pod(&self.dir, "warm-up");
        let pod_id = self.run_pod(&pod)?;
        let id = self.create(&pod_id, &pod, &specs::sleeper("warm-up", BUSYBOX))?;
        self.crictl.ok(&["start", &id])?;
        self.crictl.ok(&["exec", "-s", &id, "true"])?;
        self.remove_pod(&pod_id)?;
        Oracle::look(self.scope())
    }

    /// What the oracle of this scene looks at.
    pub fn scope(&self) -> Scope {
        Scope {
            dir: self.dir.clone(),
            directories: self
                .agent
                .iter()
                .flat_map(|agent| [agent.settings.root(), agent.settings.state()])
                .collect(),
            agent: self.agent.as_ref().and_then(Agent::pid),
            cgroup: self.agent.as_ref().map(|agent| agent.settings.cgroup_parent.clone()),
            ours: self.agent.is_some(),
            log: self.agent.as_ref().map(Agent::log),
            neighbours: Neighbours::Unknown,
        }
    }

    /// RunPodSandbox; returns the id.
    pub fn run_pod(&self, pod: &Value) -> Result<String> {
        self.crictl.ok(&["runp", &text(&specs::write(&self.dir, pod)?)])
    }

    /// The same with a RuntimeClass handler.
    pub fn run_pod_with(&self, pod: &Value, handler: &str) -> Result<String> {
        self.crictl.ok(&["runp", "--runtime", handler, &text(&specs::write(&self.dir, pod)?)])
    }

    /// CreateContainer; returns the id.
    pub fn create(&self, pod_id: &str, pod: &Value, container: &Value) -> Result<String> {
        let (container, pod) = self.create_files(pod, container)?;
        self.crictl.ok(&["create", pod_id, &container, &pod])
    }

    /// The two files that `crictl create` reads: container and pod. A pod's user namespace is its containers', too.
    pub fn create_files(&self, pod: &Value, container: &Value) -> Result<(String, String)> {
        let mut container = container.clone();
        let user = &pod["linux"]["security_context"]["namespace_options"]["userns_options"];
        if !user.is_null() {
            container["linux"]["security_context"]["namespace_options"]["userns_options"] = user.clone();
        }
        Ok((text(&specs::write(&self.dir, &container)?), text(&specs::write(&self.dir, pod)?)))
    }

    /// CreateContainer and StartContainer; returns the id.
    pub fn start(&self, pod_id: &str, pod: &Value, container: &Value) -> Result<String> {
        let id = self.create(pod_id, pod, container)?;
        self.crictl.ok(&["start", &id])?;
        Ok(id)
    }

    /// Stops and removes a pod with all in it.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.crictl.ok(&["stopp", id])?;
        self.crictl.ok(&["rmp", id])?;
        Ok(())
    }

    /// What a script prints in a running container, which must succeed.
    pub fn shell(&self, id: &str, script: &str) -> Result<String> {
        self.crictl.ok(&["exec", "-s", id, "sh", "-c", script])
    }

    /// `status` of a container.
    pub fn status(&self, id: &str) -> Result<Value> {
        Ok(self.crictl.json(&["inspect", id])?["status"].clone())
    }

    /// The log file of a container.
    pub fn log(&self, pod: &Value, container: &Value) -> PathBuf {
        let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Path::new(&part(&pod["log_directory"])).join(part(&container["log_path"]))
    }

    /// Waits for a container's end and returns its status.
    pub fn exited(&self, id: &str) -> Result<Value> {
        crate::wait::until(&format!("exit of container {id}"), crate::wait::LIMIT, || {
            let status = self.crictl.json(&["inspect", id])?;
            Ok((status["status"]["state"] == "CONTAINER_EXITED").then(|| status["status"].clone()))
        })
    }

    /// Keeps the agent's log where a failed test's reader finds it.
    fn keep_log(&self) {
        let Some(agent) = &self.agent else { return };
        let test = std::thread::current().name().unwrap_or("main").replace("::", "-");
        let logs = place::cache().join("logs");
        if fs::create_dir_all(&logs).is_ok() {
            let _ = fs::copy(agent.log(), logs.join(format!("e2e-{test}.log")));
        }
    }
}

impl Drop for Scene {
    /// After a test that failed much may be left: ends it all, since the next test counts the machine.
    fn drop(&mut self) {
        self.keep_log();
        let scope = self.scope();
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill9();
            let _ = process::end_descendants();
            scope.sweep();
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Why end-to-end tests cannot run here. Under `cargo x` what is missing is an error.
pub fn missing() -> Result<Option<String>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Some("needs root".to_owned()));
    }
    let own = if place::endpoint().is_some() { Vec::new() } else { vec![place::holdfast()] };
    let parts = [place::crictl(), place::registry(), place::images().join("index.json")];
    let missing = own.into_iter().chain(parts).find(|path| !path.exists());
    match missing {
        Some(path) if place::driven() => bail!("{} is not there", path.display()),
        Some(path) => Ok(Some(format!("{} is not there: run cargo x test", path.display()))),
        None => Ok(None),
    }
}

/// A network namespace for this thread and all that it spawns, with loopback up.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    process::stdout("ip", ["link", "set", "lo", "up"]).map(|_| ())
}

/// An IPC namespace for this thread and all that it spawns: what it makes with shmget(2) outlives no test.
pub fn own_ipc() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWIPC).context("make an IPC namespace")
}

/// A mount namespace for this thread and all that it spawns, whose mounts nobody else sees.
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    process::stdout("mount", ["--make-rprivate", "/"]).map(|_| ())
}
