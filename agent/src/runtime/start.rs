//! Start of the runtime: directories, lock, stores, then what the records say.
#![expect(clippy::result_large_err, reason = "a program starts once")]

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use holdfast_cgroup::Cgroups;
use holdfast_image::{RegistrySettings, Store, StoreConfig};
use holdfast_network::{CniConfig, EmbeddedConfig, Mode, Network, NetworkConfig};
use holdfast_pod::executable;
use holdfast_record::Durable;
use holdfast_spec::{HostFacts, seccomp};
use holdfast_sys::failpoint;
use tokio::sync::Semaphore;

use super::{
    Inner, Runtime,
    blocking::{blocking, make_dir},
    leases, linkage,
    live::{InForce, Live},
    lock::{Lock, LockError},
    names::Names,
    readiness,
    shim::ShimError,
};
use crate::config::Config;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("prepare directories")]
    Directory { source: super::Error },
    #[error("read the boot id")]
    BootId { source: std::io::Error },
    #[error(
        "find program {name}: it is neither beside holdfast nor in ../libexec/holdfast from there nor in /usr/libexec/holdfast; set {key} in the configuration"
    )]
    Program { name: &'static str, key: &'static str },
    #[error("read which containers hold which images, below {path:?}")]
    Holders { path: PathBuf, source: std::io::Error },
    #[error("open the image store")]
    Images { source: holdfast_image::Error },
    #[error("start the thread that makes records durable")]
    Durable { source: std::io::Error },
    #[error("start the network")]
    Network { source: holdfast_network::Error },
    #[error("find the cgroups")]
    Cgroups { source: holdfast_cgroup::Error },
    #[error("recover what an agent before left")]
    Recovery { source: super::Error },
}

impl Runtime {
    /// Takes the directories, opens the stores and adopts or undoes what the records name.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let config = config.clone();
        let (root, state) = (config.root.clone(), config.state.clone());
        let lock = blocking(move || prepare(&root, &state)).await?;
        let boot_id = blocking(boot_id).await.map_err(|source| StartError::BootId { source })?;
        let pod_program =
            config.pod_program().ok_or(StartError::Program { name: "holdfast-pod", key: "pod_program" })?;
        let shim_program = config
            .shim_program()
            .ok_or(StartError::Program { name: "holdfast-shim", key: "shim_program" })?;
        let shim = shim_program.clone();
        blocking(move || linkage::check_shim(&shim)).await;
        let images = open_store(&config).await?;
        let durable = Durable::start().map_err(|source| StartError::Durable { source })?;
        let network = Network::start(network_config(&config, durable.clone(), &boot_id))
            .await
            .map_err(|source| StartError::Network { source })?;
        let default_parent = config.default_cgroup_parent.clone();
        let driver = config.cgroup_driver;
        let cgroups = blocking(move || Cgroups::detect(driver, default_parent))
            .await
            .map_err(|source| StartError::Cgroups { source })?;
        let mut host = blocking(HostFacts::detect).await;
        if host.apparmor {
            host.apparmor_default = super::apparmor::load_default().await;
        }
        let kernel = host.kernel;
        let live = InForce::new(Live::new(&config, cgroups.driver()));
        let seccomp_root = config.runtime.seccomp_profile_root.clone();
        let runtime = Self(Arc::new(Inner {
            boot_id,
            pod_program,
            shim_program,
            pods: std::sync::RwLock::default(),
            containers: std::sync::RwLock::default(),
            pod_names: Names::default(),
            container_names: Names::default(),
            levels: Names::default(),
            quarantine: std::sync::OnceLock::new(),
            shim_turns: Semaphore::new(super::follow::AT_ONCE),
            owed_turns: Semaphore::new(super::owed::AT_ONCE),
            images,
            network,
            durable,
            cgroups,
            host,
            live,
            last_look: readiness::LastLook::default(),
            seccomp: Arc::new(seccomp::Compiler::new(seccomp_root, kernel)),
            config,
            _lock: lock,
        }));
        runtime.warm_seccomp();
        runtime.ask_runtimes();
        runtime.recover().await.map_err(|source| StartError::Recovery { source })?;
        runtime.watch_readiness();
        Ok(runtime)
    }

    /// Compiling takes 15 to 20 ms: the default profile is ready before the first container asks for it.
    fn warm_seccomp(&self) {
        let compiler = self.seccomp.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = compiler.warm() {
                tracing::warn!(%error, "default seccomp profile");
            }
        });
    }
}

/// The image store alone, under the lock that an agent would have: for `holdfast image` without an agent.
pub async fn open_images(config: &Config) -> Result<(Store, Lock), StartError> {
    let (root, state) = (config.root.clone(), config.state.clone());
    let lock = blocking(move || prepare(&root, &state)).await?;
    Ok((open_store(config).await?, lock))
}

async fn open_store(config: &Config) -> Result<Store, StartError> {
    let path = config.root.join("containers");
    let containers = path.clone();
    let holders = blocking(move || leases::holders(&containers))
        .await
        .map_err(|source| StartError::Holders { path, source })?;
    let store = StoreConfig { root: config.root.join("images"), registry: registry_settings(config) };
    Store::open(store, holders).await.map_err(|source| StartError::Images { source })
}

pub(super) fn registry_settings(config: &Config) -> RegistrySettings {
    RegistrySettings {
        config_dir: config.image.registry_config_dir.clone(),
        max_parallel_downloads: config.image.max_parallel_downloads,
        progress_timeout: Duration::from_secs(config.image.progress_timeout_s),
    }
}

fn prepare(root: &Path, state: &Path) -> Result<Lock, StartError> {
    let directory = |source| StartError::Directory { source };
    for (path, mode) in [(root, 0o700), (state, 0o700)] {
        make_dir(path, mode).map_err(directory)?;
    }
    let lock = Lock::take(root, state)?;
    for path in [root.join("pods"), root.join("containers"), state.join("containers")] {
        make_dir(&path, 0o711).map_err(directory)?;
    }
    Ok(lock)
}

/// Tests of what a reboot means name a file of their own.
fn boot_id() -> Result<String, std::io::Error> {
    match std::env::var_os("HOLDFAST_TEST_BOOT_ID_FILE") {
        Some(path) => std::fs::read_to_string(path).map(|text| text.trim().to_owned()),
        None => Ok(holdfast_sys::proc::boot_id()?),
    }
}

fn network_config(config: &Config, durable: Durable, boot_id: &str) -> NetworkConfig {
    let network = &config.network;
    NetworkConfig {
        mode: network.mode.unwrap_or(Mode::Cni),
        cni: CniConfig { conf_dir: network.cni.conf_dir.clone(), bin_dirs: network.cni.bin_dirs.clone() },
        embedded: EmbeddedConfig {
            bridge: network.embedded.bridge.clone(),
            subnets: network.embedded.subnets.clone(),
            mtu: network.embedded.mtu,
        },
        state_dir: config.root.join("network"),
        netns_dir: PathBuf::from("/run/netns"),
        durable,
        boot_id: boot_id.to_owned(),
    }
}

/// A spawned program by its name.
pub(super) struct Spawned {
    pub pid: i32,
    pub start_time: u64,
    pub pidfd: OwnedFd,
}

/// Starts a shim with one end of a socket pair; it lives on only if it is told to commit. Blocking.
pub(super) fn spawn_shim(program: &Path, run_dir: &Path, id: &str) -> Result<(OwnedFd, Spawned), ShimError> {
    let (ours, theirs) = holdfast_sys::socket::pair().map_err(|source| ShimError::Connect { source })?;
    let dir = failpoint::at("runtime.shim.spawn")
        .and_then(|()| std::fs::File::open(run_dir))
        .map_err(|source| ShimError::Socket { operation: "open directory of", source })?;
    let args = ["--id".into(), id.into()];
    let process = executable::start(program, &args, theirs.as_fd(), Some(dir.as_fd()))
        .map_err(|source| ShimError::Spawn { source })?;
    let start_time = holdfast_sys::proc::start_time(process.pid)
        .map_err(|source| ShimError::Socket { operation: "identify", source: source.into() })?;
    Ok((ours, Spawned { pid: process.pid, start_time, pidfd: process.pidfd }))
}
