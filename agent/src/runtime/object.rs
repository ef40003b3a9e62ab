//! Pods and containers in memory: a record, and handles of what runs.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use holdfast_model::{ContainerId, ContainerMetadata, PodId, PodSandboxMetadata};
use holdfast_pod::{holder::Holder, protocol::Phase};
use tokio::sync::watch;

use super::{
    Error,
    blocking::blocking,
    error::phase_name,
    kept::ExecBase,
    names::Reservation,
    record::{self, ContainerRecord, PodPhase, PodRecord, Record, RecordError},
    session::Forwards,
    shim::Shim,
    stats::Samples,
};

/// A record that readers see without I/O and writers put on disk first.
#[derive(Debug)]
pub struct Kept<R> {
    dir: PathBuf,
    now: RwLock<Arc<R>>,
    writing: tokio::sync::Mutex<()>,
}

impl<R: Record + Clone + Send + Sync + 'static> Kept<R> {
    /// For a record that is on disk already.
    pub fn new(dir: PathBuf, record: R) -> Self {
        Self { dir, now: RwLock::new(Arc::new(record)), writing: tokio::sync::Mutex::new(()) }
    }

    /// The record as it is now.
    pub fn get(&self) -> Arc<R> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record: on disk, then in memory. For what is about to be done.
    pub async fn update(&self, change: impl FnOnce(&mut R)) -> Result<Arc<R>, RecordError> {
        let _turn = self.writing.lock().await;
        let new = self.changed(change);
        self.write(new.clone()).await?;
        self.set(new.clone());
        Ok(new)
    }

    /// Changes the record: in memory, then on disk. For what has happened, which is so even if the disk is full.
    pub async fn learn(&self, change: impl FnOnce(&mut R)) -> Result<Arc<R>, RecordError> {
        let _turn = self.writing.lock().await;
        let new = self.changed(change);
        self.set(new.clone());
        self.write(new.clone()).await?;
        Ok(new)
    }

    fn changed(&self, change: impl FnOnce(&mut R)) -> Arc<R> {
        let mut new = R::clone(&self.get());
        change(&mut new);
        Arc::new(new)
    }

    fn set(&self, new: Arc<R>) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    async fn write(&self, new: Arc<R>) -> Result<(), RecordError> {
        let dir = self.dir.clone();
        blocking(move || record::write(&dir, &*new)).await
    }
}

/// A pod sandbox.
#[derive(Debug)]
pub struct Pod {
    /// Id.
    pub id: PodId,
    /// Directory of its record and files.
    pub dir: PathBuf,
    /// Its record.
    pub record: Kept<PodRecord>,
    /// Held for reading while a container is made in it, for writing while it is stopped or removed.
    pub life: tokio::sync::RwLock<()>,
    /// The process that holds the namespaces; `None` once it is gone.
    pub holder: Mutex<Option<Arc<Holder>>>,
    /// Connections into it.
    pub forwards: Forwards,
    /// Its name.
    pub name: Reservation<PodName>,
    /// Its SELinux level, if it has one of its own.
    pub level: Option<Reservation<String>>,
}

impl Pod {
    /// The holder while it lives.
    pub fn holder(&self) -> Option<Arc<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether containers can be made in it.
    pub fn is_ready(&self) -> bool {
        self.record.get().phase == PodPhase::Ready && self.holder().is_some()
    }

    /// Takes the holder away; the pod is NOTREADY from then on.
    pub fn take_holder(&self) -> Option<Arc<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub pod_id: PodId,
    /// Directory of its record, upper layer and exit record.
    pub dir: PathBuf,
    /// Its record.
    pub record: Kept<ContainerRecord>,
    /// Held while it is started, stopped or removed.
    pub life: tokio::sync::Mutex<()>,
    /// The shim; `None` once the container has exited.
    pub shim: Mutex<Option<Arc<Shim>>>,
    /// Becomes true when it has exited and its record says so.
    pub exited: watch::Sender<bool>,
    /// Common parameters of its execs; `None` before the first one, and once it has exited.
    pub exec_base: Mutex<Option<Arc<ExecBase>>>,
    /// What the last statistics were computed from.
    pub samples: Samples,
    /// Its name.
    pub name: Reservation<ContainerName>,
}

impl Container {
    /// The shim while it lives.
    pub fn shim(&self) -> Option<Arc<Shim>> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The shim of a container that has to be running for `operation`.
    pub fn running_shim(&self, operation: &'static str) -> Result<Arc<Shim>, Error> {
        let phase = self.phase();
        self.shim().filter(|_| phase == Phase::Running).ok_or_else(|| Error::WrongState {
            id: self.id.to_string(),
            state: phase_name(phase),
            operation,
            wanted: "running",
        })
    }

    /// The answer to whoever asked its shim for something while it ended.
    pub fn ended_under(&self, operation: &'static str) -> Error {
        let state = phase_name(Phase::Exited);
        Error::WrongState { id: self.id.to_string(), state, operation, wanted: "running" }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.record.get().phase
    }

    /// Waits until it has exited.
    pub async fn wait_exited(&self) {
        let mut exited = self.exited.subscribe();
        // The sender lives in self, so this cannot fail.
        let _ = exited.wait_for(|exited| *exited).await;
    }
}

/// Key that a kubelet tells pod sandboxes apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodName(PodSandboxMetadata);

/// Key that a kubelet tells containers apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerName(PodId, ContainerMetadata);

impl PodName {
    /// That of a pod sandbox with this record.
    pub fn of(record: &PodRecord) -> Self {
        Self(record.config.metadata.clone())
    }
}

impl ContainerName {
    /// That of a container in the pod `pod`.
    pub fn new(pod: PodId, metadata: ContainerMetadata) -> Self {
        Self(pod, metadata)
    }
}

/// `name_namespace_uid_attempt`, for a reader.
impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodSandboxMetadata { name, namespace, uid, attempt } = &self.0;
        write!(f, "{name}_{namespace}_{uid}_{attempt}")
    }
}

/// `name_podid_attempt`, for a reader.
impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(pod, ContainerMetadata { name, attempt }) = self;
        write!(f, "{name}_{pod}_{attempt}")
    }
}
