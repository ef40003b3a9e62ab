//! Pods and containers in memory: a record, and handles of what runs.

use std::{
    fmt,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_model::{ContainerId, ContainerMetadata, PodId, PodSandboxMetadata};
use holdfast_pod::{holder::Holder, protocol::Phase};
use holdfast_record::Durable;
use tokio::{sync::watch, time::timeout};

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

/// Wait before the end that a client has asked for is written: as a rule a removal follows soon, which needs no record of it.
const CATCH_UP: Duration = Duration::from_millis(300);
/// Longest wait of a call for a shim that has not answered yet since the agent's start.
const REACH_LIMIT: Duration = Duration::from_secs(5);

/// A record that readers see without I/O and writers put on disk first.
#[derive(Debug)]
pub struct Kept<R> {
    dir: PathBuf,
    durable: Durable,
    now: RwLock<Arc<R>>,
    writing: tokio::sync::Mutex<()>,
    /// The disk lacks what memory has, and the log says so.
    behind: AtomicBool,
}

impl<R: Record + Clone + Send + Sync + 'static> Kept<R> {
    /// For a record that is on disk, or about to be.
    pub fn new(dir: PathBuf, record: R, durable: &Durable) -> Self {
        Self {
            dir,
            durable: durable.clone(),
            now: RwLock::new(Arc::new(record)),
            writing: tokio::sync::Mutex::default(),
            behind: AtomicBool::new(false),
        }
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

    /// The same where a disk that takes no writes must keep nobody from going on, as in a removal. It is logged once, until a
    /// write succeeds again.
    pub async fn note(&self, change: impl FnOnce(&mut R)) {
        let written = self.learn(change).await.map(drop);
        self.log(written);
    }

    /// Changes the record in memory alone, for what a client has asked for and is told now: the disk says what was before until
    /// [`Self::catch_up`], and a restarted agent finds out again.
    pub async fn mark(&self, change: impl FnOnce(&mut R)) {
        let _turn = self.writing.lock().await;
        self.set(self.changed(change));
    }

    /// Writes what was marked, after a while in which the object may have been removed: then there is nothing to write.
    pub async fn catch_up(&self) {
        tokio::time::sleep(CATCH_UP).await;
        let _turn = self.writing.lock().await;
        let now = self.get();
        if now.must_stay() {
            let written = self.write(now).await.map(drop);
            self.log(written);
        }
    }

    /// Changes the record for what is told to everybody by `tell`, and may never be taken back: it is made durable first, unless
    /// the disk takes longer than `patience`.
    pub async fn conclude(&self, change: impl FnOnce(&mut R), patience: Duration, tell: impl FnOnce()) {
        let _turn = self.writing.lock().await;
        let new = self.changed(change);
        let mut written = None;
        let mut writing = pin!(self.write(new.clone()));
        let settled = async {
            let result = writing.as_mut().await;
            if let Ok(path) = written.insert(result) {
                // What goes wrong is logged there.
                let _ = self.durable.settle(path.clone()).await;
            }
        };
        let _ = timeout(patience, settled).await;
        self.set(new.clone());
        tell();
        let written = match written {
            Some(written) => written,
            None => writing.await,
        };
        self.log(written.map(drop));
    }

    /// Makes the record on disk that of memory.
    pub async fn save(&self) {
        self.note(|_| {}).await;
    }

    fn log(&self, written: Result<(), RecordError>) {
        match written {
            Ok(()) => self.behind.store(false, Ordering::Relaxed),
            Err(error) if self.behind.swap(true, Ordering::Relaxed) => {
                tracing::debug!(error = holdfast_model::chain(&error), "record is still behind");
            }
            Err(error) => {
                tracing::warn!(
                    error = holdfast_model::chain(&error),
                    "a record does not say what is known: a restart of the agent may do again what has been done"
                );
            }
        }
    }

    fn changed(&self, change: impl FnOnce(&mut R)) -> Arc<R> {
        let mut new = R::clone(&self.get());
        change(&mut new);
        Arc::new(new)
    }

    fn set(&self, new: Arc<R>) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    async fn write(&self, new: Arc<R>) -> Result<PathBuf, RecordError> {
        let dir = self.dir.clone();
        let path = blocking(move || record::write(&dir, &*new)).await?;
        self.durable.later(path.clone());
        Ok(path)
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
    /// Its name; `None`: another pod sandbox has it, or nobody was told of this one.
    pub name: Option<Reservation<PodName>>,
    /// Its removal is owed: a task is at it until it is done.
    pub owed: AtomicBool,
    /// Its SELinux level, if it has one of its own.
    pub level: Option<Reservation<String>>,
}

impl Pod {
    /// For a record that is on disk, or about to be.
    pub fn new(
        dir: PathBuf,
        record: PodRecord,
        holder: Option<Arc<Holder>>,
        name: Option<Reservation<PodName>>,
        level: Option<Reservation<String>>,
        durable: &Durable,
    ) -> Self {
        Self {
            id: record.id.clone(),
            record: Kept::new(dir.clone(), record, durable),
            dir,
            life: tokio::sync::RwLock::default(),
            holder: Mutex::new(holder),
            forwards: Forwards::default(),
            name,
            owed: AtomicBool::new(false),
            level,
        }
    }

    /// Gives back its name and its level: it is gone, or as good as that.
    pub fn release_names(&self) {
        self.name.iter().for_each(Reservation::release);
        self.level.iter().for_each(Reservation::release);
    }

    /// The holder while it lives.
    pub fn holder(&self) -> Option<Arc<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a READY pod NOTREADY; the disk hears of it later.
    pub async fn end(self: &Arc<Self>) {
        let mut was_ready = false;
        let over = |record: &mut PodRecord| {
            was_ready = record.phase == PodPhase::Ready;
            if was_ready {
                record.phase = PodPhase::NotReady;
            }
        };
        self.record.mark(over).await;
        if was_ready {
            let pod = self.clone();
            tokio::spawn(async move { pod.record.catch_up().await });
        }
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
    /// Held while it is started, updated or removed.
    pub life: tokio::sync::Mutex<()>,
    /// The way to its shim.
    pub link: watch::Sender<Link>,
    /// Somebody has asked for its end.
    pub end_is_wanted: AtomicBool,
    /// A client has had the answer that it was started.
    pub start_is_told: AtomicBool,
    /// Held while its exit is recorded.
    pub ending: tokio::sync::Mutex<()>,
    /// Becomes true when it has exited and its record says so.
    pub exited: watch::Sender<bool>,
    /// Common parameters of its execs; `None` before the first one, and once it has exited.
    pub exec_base: Mutex<Option<Arc<ExecBase>>>,
    /// What the last statistics were computed from.
    pub samples: Samples,
    /// Its name; `None`: another container has it, or nobody was told of this one.
    pub name: Option<Reservation<ContainerName>>,
    /// Its removal is owed: a task is at it until it is done.
    pub owed: AtomicBool,
}

/// The agent's way to a shim.
#[derive(Debug, Clone, Default)]
pub enum Link {
    /// None yet: the agent has started, or lost the connection, a moment ago.
    #[default]
    Waiting,
    /// The shim's process lives, but it does not answer. Nothing is known of the container but its record, which counts.
    Silent,
    /// A connection over which it has answered.
    Connected(Arc<Shim>),
    /// The container has exited.
    Ended,
}

impl Container {
    /// For a record that is on disk, or about to be.
    pub fn new(
        dir: PathBuf,
        record: ContainerRecord,
        name: Option<Reservation<ContainerName>>,
        durable: &Durable,
    ) -> Self {
        let exited = record.phase == Phase::Exited;
        Self {
            id: record.id.clone(),
            pod_id: record.pod_id.clone(),
            record: Kept::new(dir.clone(), record, durable),
            dir,
            life: tokio::sync::Mutex::default(),
            link: watch::Sender::new(if exited { Link::Ended } else { Link::Waiting }),
            end_is_wanted: AtomicBool::new(false),
            start_is_told: AtomicBool::new(false),
            ending: tokio::sync::Mutex::default(),
            exited: watch::Sender::new(exited),
            exec_base: Mutex::default(),
            samples: Samples::default(),
            name,
            owed: AtomicBool::new(false),
        }
    }

    /// The shim, if there is a connection to it.
    pub fn shim(&self) -> Option<Arc<Shim>> {
        match &*self.link.borrow() {
            Link::Connected(shim) => Some(shim.clone()),
            _ => None,
        }
    }

    /// The shim of a container that has not exited; one that was not heard yet is waited for, for a while.
    pub async fn reach_shim(&self, operation: &'static str) -> Result<Arc<Shim>, Error> {
        let mut link = self.link.subscribe();
        let heard = link.wait_for(|link| !matches!(link, Link::Waiting));
        match timeout(REACH_LIMIT, heard).await.map(|heard| heard.map(|link| link.clone())) {
            Ok(Ok(Link::Connected(shim))) => Ok(shim),
            Ok(Ok(Link::Ended)) => Err(self.ended_under(operation)),
            // Of a silent one the next answer may be hours away, and the caller may ask again. The sender lives in self.
            _ => Err(Error::ShimSilent {
                id: self.id.to_string(),
                operation,
                pid: self.record.get().shim.map_or(0, |shim| shim.pid),
            }),
        }
    }

    /// The shim of a container that has to be running for `operation`.
    pub async fn running_shim(&self, operation: &'static str) -> Result<Arc<Shim>, Error> {
        match self.phase() {
            Phase::Running => self.reach_shim(operation).await,
            phase => Err(Error::WrongState {
                id: self.id.to_string(),
                state: phase_name(phase),
                operation,
                wanted: "running",
            }),
        }
    }

    /// Gives its name back: it is gone, or as good as that.
    pub fn release_name(&self) {
        self.name.iter().for_each(Reservation::release);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Sample {
        number: u32,
    }

    impl Record for Sample {
        fn id(&self) -> &'static str {
            ""
        }

        fn own_cgroup(&self) -> Option<&str> {
            None
        }

        fn must_stay(&self) -> bool {
            self.number > 6
        }
    }

    fn kept(dir: &std::path::Path) -> Kept<Sample> {
        Kept::new(dir.to_owned(), Sample { number: 1 }, &Durable::start().unwrap())
    }

    fn on_disk(dir: &std::path::Path) -> Option<u32> {
        let bytes = std::fs::read(dir.join(record::FILE)).ok()?;
        Some(serde_json::from_slice::<Sample>(&bytes).unwrap().number)
    }

    #[tokio::test]
    async fn what_is_about_to_be_done_is_on_disk_first() {
        let dir = tempfile::tempdir().unwrap();
        let record = kept(dir.path());
        record.update(|record| record.number = 2).await.unwrap();
        assert_eq!((record.get().number, on_disk(dir.path())), (2, Some(2)));
        let record = kept(&dir.path().join("gone"));
        record.update(|record| record.number = 2).await.unwrap_err();
        assert_eq!(record.get().number, 1);
    }

    /// A full disk, or none.
    #[tokio::test]
    async fn what_has_happened_is_so_whatever_the_disk_says() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let record = kept(&gone);
        record.note(|record| record.number = 2).await;
        assert_eq!(record.get().number, 2);
        let mut told = false;
        record.conclude(|record| record.number += 1, Duration::from_secs(5), || told = true).await;
        assert!(told);
        assert_eq!(record.get().number, 3);
        // With room again the disk catches up.
        std::fs::create_dir(&gone).unwrap();
        record.save().await;
        assert_eq!(on_disk(&gone), Some(3));
    }

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_is_on_disk_before_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let record = kept(dir.path());
        let tell = || assert_eq!(on_disk(dir.path()), Some(7));
        record.conclude(|record| record.number = 7, Duration::from_mins(1), tell).await;
        assert_eq!(record.get().number, 7);
    }

    /// As a stop and a removal that follows at once do.
    #[tokio::test]
    async fn what_was_asked_for_is_written_later_if_it_is_still_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let record = kept(dir.path());
        record.save().await;
        record.mark(|record| record.number = 7).await;
        assert_eq!((record.get().number, on_disk(dir.path())), (7, Some(1)));
        record.catch_up().await;
        assert_eq!(on_disk(dir.path()), Some(7));
        record.mark(|record| record.number = 2).await;
        record.catch_up().await;
        assert_eq!(on_disk(dir.path()), Some(7));
    }
}
