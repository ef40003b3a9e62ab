//! The runtime: pods and containers, what is known of them and what can be done with them.
//!
//! One file for each thing that can be asked (`run_pod_sandbox.rs`, `create_container.rs` ...). Each mutating
//! operation runs in a task of its own, so a client that goes away never leaves it half done, and follows one
//! pattern: record, make, and on failure undo newest first.
//!
//! ```text
//!  object.rs   a pod or container: record + handles          record.rs  the record on disk
//!  names.rs    who has which name                            shim.rs    the connection to a shim
//!  recovery/   a restart of the agent                        monitor.rs the end of a holder or a container
//!  follow.rs   a shim from its connection to its end         owed.rs    removals that are tried until they succeed
//! ```

mod apparmor;
mod async_fd;
mod backoff;
mod blocking;
mod command;
mod create_container;
mod error;
mod exec_sync;
mod follow;
mod foreign;
mod handlers;
mod hooks;
mod kept;
mod kinds;
mod leases;
mod levels;
mod linkage;
mod live;
mod lock;
mod log_files;
mod monitor;
mod names;
mod object;
mod owed;
mod pipes;
mod pod_files;
mod quarantine;
mod readiness;
mod record;
mod recovery;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_log;
mod run_pod_sandbox;
mod session;
mod shim;
mod start;
mod start_container;
mod stats;
mod stop_container;
mod stop_pod_sandbox;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod stored_formats;
mod update_resources;
mod view;
mod volume_images;

use std::{
    collections::HashMap,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use holdfast_cgroup::Cgroups;
use holdfast_image::Store;
use holdfast_model::{ContainerId, PodId};
use holdfast_network::Network;
use holdfast_record::Durable;
use holdfast_spec::{HostFacts, seccomp};
use tokio::sync::Semaphore;
use tracing::Instrument;

pub use blocking::now_ns;
pub use error::{Error, Kind};
pub use exec_sync::ExecOutput;
pub use handlers::HandlerView;
pub use lock::Lock;
pub use quarantine::{ObjectKind, Programs, Quarantined, scan as scan_quarantine};
pub use readiness::Readiness;
pub use record::{ContainerRecord, FILE as RECORD_FILE, PodPhase, RecordError};
pub use start::{StartError, open_images};
pub use stats::{ContainerUsage, DiskUsage};
pub use view::{ContainerView, ExitInfo, PodView};

use crate::config::Config;
use names::Names;
use object::{Container, ContainerName, Pod, PodName};

/// The runtime of one node. Clones share it.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Inner>);

/// What [`Runtime`] shares.
pub struct Inner {
    config: Config,
    boot_id: String,
    pod_program: PathBuf,
    shim_program: PathBuf,
    pods: RwLock<HashMap<PodId, Arc<Pod>>>,
    containers: RwLock<HashMap<ContainerId, Arc<Container>>>,
    pod_names: Names<PodName>,
    container_names: Names<ContainerName>,
    levels: Names<String>,
    /// Set by the start, before anything is served.
    quarantine: OnceLock<Vec<Quarantined>>,
    shim_turns: Semaphore,
    owed_turns: Semaphore,
    images: Store,
    network: Network,
    durable: Durable,
    cgroups: Cgroups,
    host: HostFacts,
    live: live::InForce,
    last_look: readiness::LastLook,
    seccomp: Arc<seccomp::Compiler>,
    _lock: lock::Lock,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("root", &self.config.root).finish_non_exhaustive()
    }
}

impl Deref for Runtime {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Runtime {
    /// The image store.
    pub fn images(&self) -> &Store {
        &self.images
    }

    /// The pods' network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The cgroup driver and mode.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the host can do.
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// Runs an operation to its end even if whoever asked goes away.
    async fn detached<T: Send + 'static>(&self, operation: impl Future<Output = T> + Send + 'static) -> T {
        match tokio::spawn(operation.in_current_span()).await {
            Ok(answer) => answer,
            // The program aborts on panic, so this is the runtime shutting down: no answer is awaited any more.
            Err(_) => std::future::pending().await,
        }
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, Error> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        find("pod sandbox", &pods, id)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let containers = self.containers.read().unwrap_or_else(PoisonError::into_inner);
        find("container", &containers, id)
    }

    fn all_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn all_containers(&self) -> Vec<Arc<Container>> {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn containers_of(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.all_containers().into_iter().filter(|container| container.pod_id == *pod).collect()
    }

    fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.config.root.join("pods").join(id.as_str())
    }

    fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.root.join("containers").join(id.as_str())
    }

    /// Directory of a shim's socket, which dies with the boot.
    fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.state.join("containers").join(id.as_str())
    }
}

/// By whole id, or by the first digits if only one begins with them, as containerd and crictl do.
fn find<K, V>(what: &'static str, objects: &HashMap<K, Arc<V>>, id: &str) -> Result<Arc<V>, Error>
where
    K: std::hash::Hash + Eq + AsRef<str>,
{
    let not_found = || Error::NotFound { what, id: id.to_owned() };
    if id.is_empty() {
        return Err(Error::BadRequest { field: what, problem: "its id is empty".to_owned() });
    }
    let mut matching = objects.iter().filter(|(key, _)| key.as_ref().starts_with(id));
    let (_, first) = matching.next().ok_or_else(not_found)?;
    match matching.count() {
        0 => Ok(first.clone()),
        more => Err(Error::Ambiguous { what, id: id.to_owned(), count: more + 1 }),
    }
}
