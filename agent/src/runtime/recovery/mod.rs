//! A restarted agent and what it finds.
//!
//! Assumptions: every object has a record that was written before anything of it was made; the lock says that no
//! other agent uses these directories; a holder or shim that was not committed has ended by itself, for its socket
//! closed with the agent before us.
//!
//! | record says | and                   | then                                                  |
//! |-------------|-----------------------|-------------------------------------------------------|
//! | Creating    |                       | undone: nobody was told its id                        |
//! | Removing    |                       | removal is finished                                   |
//! | any         | another boot          | pods NOTREADY, containers EXITED 255                  |
//! | Ready       | holder lives          | adopted                                               |
//! | Ready       | holder dead           | NOTREADY                                              |
//! | Created, Running | shim answers     | adopted                                               |
//! | Created, Running | shim lives, but does not answer | as recorded, until it does              |
//! | Created, Running | shim dead, exit record | EXITED as it says; if it is unfinished, its rest is done |
//! | Created, Running | shim dead, no exit record | killed by cgroup; EXITED 255, ShimDied        |
//!
//! Only a process that is known to be dead, or a client, ends anything: no name, no failed read and no missing answer does.
//! An I/O error fails the start; a record that makes no sense, or is newer, is left alone (`quarantine.rs`).
//!
//! Lists are complete when this returns. Whatever takes time is done behind it: shims that do not answer (`follow.rs`),
//! removals and undoing (`owed.rs`), tidying.

pub mod load;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use holdfast_pod::{
    holder::Holder,
    protocol::{EXIT_RECORD_NAME, ExitRecord, Phase, SHIM_DIED_EXIT_CODE},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Error, Runtime,
    blocking::{blocking, now_ns, remove_tree},
    monitor::{DURABLE_LIMIT, read_exit_record},
    object::{Container, ContainerName, Link, Pod, PodName},
    owed::Owed,
    quarantine::ObjectKind,
    record::{self, ContainerRecord, PodPhase, PodRecord, ProcessName},
};
use load::{Fault, Loaded, Other};

/// How long the start waits for shims to answer: hundreds do within it, and what is not known by then is learnt later.
const ADOPTION_LIMIT: Duration = Duration::from_millis(500);
/// Four times what the kernel takes to write a file back (vm.dirty_expire_centisecs).
const RECENT: Duration = Duration::from_mins(2);

/// All that is on disk.
struct Found {
    pods: Vec<(PodRecord, Option<Holder>)>,
    containers: Vec<ContainerRecord>,
    others: Vec<(ObjectKind, Other)>,
    /// Run directories that are there, by their names.
    run_dirs: Vec<PathBuf>,
}

impl Runtime {
    /// Lists everything that the records name, and begins to adopt, finish or undo it.
    pub(super) async fn recover(&self) -> Result<(), Error> {
        let runtime = self.clone();
        let found = blocking(move || runtime.read_all()).await?;
        self.settle_recent(&found).await;
        let strays = self.tell_apart(found.others).await;
        let undone = self.register_pods(found.pods);
        let live = self.register_containers(found.containers);
        self.settle_networks().await;
        self.tidy(strays, found.run_dirs);
        for owed in undone {
            self.owe(owed);
        }
        self.await_shims(live).await;
        Ok(())
    }

    /// Reads the disk, and finds holders. Blocking.
    fn read_all(&self) -> Result<Found, Error> {
        let parent = |kind: ObjectKind| self.config.root.join(kind.directory());
        let pods: Loaded<PodRecord> = load::load(&parent(ObjectKind::Pod))?;
        let containers: Loaded<ContainerRecord> = load::load(&parent(ObjectKind::Container))?;
        let with_holder = |record: PodRecord| self.find_holder(&record).map(|holder| (record, holder));
        let of_pods = pods.others.into_iter().map(|other| (ObjectKind::Pod, other));
        let of_containers = containers.others.into_iter().map(|other| (ObjectKind::Container, other));
        Ok(Found {
            pods: pods.records.into_iter().map(with_holder).collect::<Result<_, _>>()?,
            containers: in_order(containers.records)
                .into_iter()
                .map(|record| self.with_end_of_boot(record))
                .collect::<Result<_, _>>()?,
            others: of_pods.chain(of_containers).collect(),
            run_dirs: children(&self.config.state.join("containers"))?,
        })
    }

    /// Makes durable the records that an agent before this one wrote in its last moments; those of ends before they are told again.
    async fn settle_recent(&self, found: &Found) {
        let is_over = |record: &&ContainerRecord| record.phase == Phase::Exited;
        let ended: HashSet<_> =
            found.containers.iter().filter(is_over).map(|record| &record.pod_id).collect();
        let of_pod = |(pod, _): &(PodRecord, _)| (ended.contains(&pod.id), self.pod_dir(&pod.id));
        let of_container = |record: &ContainerRecord| (is_over(&record), self.container_dir(&record.id));
        let dirs = found.pods.iter().map(of_pod).chain(found.containers.iter().map(of_container));
        let paths: Vec<_> = dirs.map(|(is_told, dir)| (is_told, dir.join(record::FILE))).collect();
        let recent =
            blocking(move || paths.into_iter().filter(|(_, path)| is_recent(path)).collect::<Vec<_>>());
        let (mut told, others): (Vec<_>, Vec<_>) =
            recent.await.into_iter().partition(|(is_told, _)| *is_told);
        if let Some((_, last)) = told.pop() {
            for (_, path) in told {
                self.durable.later(path);
            }
            let _ = timeout(DURABLE_LIMIT, self.durable.settle(last)).await;
        }
        for (_, path) in others {
            self.durable.later(path);
        }
    }

    fn find_holder(&self, record: &PodRecord) -> Result<Option<Holder>, Error> {
        match record.holder.filter(|_| record.boot_id == self.boot_id) {
            None => Ok(None),
            Some(name) => Holder::find(name.pid, name.start_time).map_err(|source| Error::Holder {
                operation: "look for the",
                pod: record.id.to_string(),
                source,
            }),
        }
    }

    /// A container of another boot has ended with that, if not before.
    fn with_end_of_boot(&self, mut record: ContainerRecord) -> Result<ContainerRecord, Error> {
        if record.boot_id == self.boot_id || matches!(record.phase, Phase::Creating | Phase::Exited) {
            return Ok(record);
        }
        let path = self.container_dir(&record.id).join(EXIT_RECORD_NAME);
        let known =
            read_exit_record(&path).map_err(|source| Error::Io { operation: "read", path, source })?;
        let known = known.map(|record| ExitRecord { unfinished: false, ..record });
        record.exit = Some(known.unwrap_or_else(|| ExitRecord {
            exit_code: SHIM_DIED_EXIT_CODE,
            started_at_ns: record.started_at_ns,
            finished_at_ns: now_ns(),
            reason: "NodeRebooted".to_owned(),
            message: "the node was restarted while the container ran".to_owned(),
            ..ExitRecord::default()
        }));
        record.phase = Phase::Exited;
        Ok(record)
    }

    /// Takes note of objects without a usable record; returns the directories that nothing was ever made for.
    async fn tell_apart(&self, others: Vec<(ObjectKind, Other)>) -> Vec<PathBuf> {
        let (mut known, mut strays) = (Vec::new(), Vec::new());
        for (kind, other) in others {
            let is_stray = match other.fault {
                Fault::Missing => true,
                // It was made a moment before the power went, so nothing of it can live.
                Fault::Empty => !self.lives(kind, &other.id).await,
                Fault::Torn { .. } | Fault::Newer { .. } | Fault::Strange { .. } | Fault::Aside => false,
            };
            if is_stray {
                strays.push(other.dir);
            } else {
                known.push((kind, other));
            }
        }
        self.set_quarantine(known).await;
        strays
    }

    /// Puts pods into the map; returns those that have to go.
    fn register_pods(&self, mut found: Vec<(PodRecord, Option<Holder>)>) -> Vec<Owed> {
        found.sort_by_key(|(record, _)| match record.phase {
            PodPhase::Ready => 0,
            PodPhase::NotReady => 1,
            PodPhase::Removing => 2,
            PodPhase::Creating => 3,
        });
        found.into_iter().filter_map(|(record, holder)| self.register_pod(record, holder)).collect()
    }

    fn register_pod(&self, mut record: PodRecord, holder: Option<Holder>) -> Option<Owed> {
        let (dir, phase) = (self.pod_dir(&record.id), record.phase);
        // Nobody was told of one that was not finished: its name is free for who asks again.
        let name = if phase == PodPhase::Creating {
            None
        } else {
            let wanted = PodName::of(&record);
            let name = self.pod_names.adopt(&wanted, record.id.as_str());
            if name.is_none() {
                tracing::warn!(pod_sandbox_id = %record.id, name = %wanted, "two pod sandboxes have one name: both are kept");
            }
            name
        };
        let level = self.adopt_level(&record);
        let is_over = phase == PodPhase::Ready && holder.is_none();
        if is_over {
            record.phase = PodPhase::NotReady;
        }
        let pod = Arc::new(Pod::new(dir, record, holder.map(Arc::new), name, level, &self.durable));
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(pod.id.clone(), pod.clone());
        self.watch_holder(&pod);
        if is_over {
            let pod = pod.clone();
            tokio::spawn(async move { pod.record.save().await });
        }
        matches!(phase, PodPhase::Creating | PodPhase::Removing).then_some(Owed::Pod(pod))
    }

    /// Puts containers into the map and begins to follow them or to finish with them; returns those that may run.
    fn register_containers(&self, found: Vec<ContainerRecord>) -> Vec<Arc<Container>> {
        let mut live = Vec::new();
        for record in without_stolen_shims(found) {
            let (phase, removing) = (record.phase, record.removing);
            let same_boot = record.boot_id == self.boot_id;
            let container = self.register_container(record);
            match phase {
                Phase::Creating => {}
                Phase::Exited if same_boot => {}
                Phase::Exited => self.finish_end_of_boot(container.clone()),
                Phase::Created | Phase::Running => {
                    self.follow_shim(&container, None);
                    live.push(container.clone());
                }
            }
            if removing || phase == Phase::Creating {
                self.owe(Owed::Container(container));
            }
        }
        live
    }

    fn register_container(&self, record: ContainerRecord) -> Arc<Container> {
        let dir = self.container_dir(&record.id);
        let name = if record.phase == Phase::Creating {
            None
        } else {
            let wanted = ContainerName::new(record.pod_id.clone(), record.config.metadata.clone());
            let name = self.container_names.adopt(&wanted, record.id.as_str());
            if name.is_none() {
                tracing::warn!(container_id = %record.id, name = %wanted, "two containers have one name: both are kept");
            }
            name
        };
        let container = Arc::new(Container::new(dir, record, name, &self.durable));
        let mut containers = self.containers.write().unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.id.clone(), container.clone());
        container
    }

    /// Waits until the shims of these have been heard, but not for long.
    async fn await_shims(&self, containers: Vec<Arc<Container>>) {
        let deadline = Instant::now() + ADOPTION_LIMIT;
        for container in &containers {
            let mut link = container.link.subscribe();
            let heard = link.wait_for(|link| !matches!(link, Link::Waiting));
            if timeout_at(deadline, heard).await.is_err() {
                tracing::info!("some shims have not answered yet: they are waited for in the background");
                return;
            }
        }
    }

    /// Records what memory says already, and takes back what such a container had.
    fn finish_end_of_boot(&self, container: Arc<Container>) {
        let runtime = self.clone();
        tokio::spawn(async move {
            let _life = container.life.lock().await;
            if runtime.container(container.id.as_str()).is_ok() {
                container.record.save().await;
                runtime.release_run_parts(&container).await;
            }
        });
    }

    /// Networks of pods that nobody knows are given back.
    async fn settle_networks(&self) {
        let quarantined = self.quarantined().iter().filter(|object| object.kind == ObjectKind::Pod);
        let mut pods: HashSet<_> = quarantined.filter_map(|pod| pod.id.parse().ok()).collect();
        let mut leaving = Vec::new();
        for pod in self.all_pods() {
            if matches!(pod.record.get().phase, PodPhase::Creating | PodPhase::Removing) {
                leaving.push(pod.id.clone());
            }
            pods.insert(pod.id.clone());
        }
        self.network.recover(&pods, &leaving).await;
    }

    /// Ids of all containers that there are, whatever is known of them.
    fn known_containers(&self) -> HashSet<String> {
        let quarantined = self.quarantined().iter().filter(|object| object.kind == ObjectKind::Container);
        let mut known: HashSet<_> = quarantined.map(|container| container.id.clone()).collect();
        known.extend(self.all_containers().iter().map(|container| container.id.to_string()));
        known
    }

    /// Removes directories of objects that were never made, and run directories of those that are not known. The lists
    /// are older than anything that is made from now on.
    fn tidy(&self, strays: Vec<PathBuf>, run_dirs: Vec<PathBuf>) {
        let known = self.known_containers();
        let is_unknown = |dir: &PathBuf| {
            dir.file_name().and_then(|name| name.to_str()).is_none_or(|name| !known.contains(name))
        };
        let unknown: Vec<PathBuf> = run_dirs.into_iter().filter(is_unknown).collect();
        let images = self.images.clone();
        tokio::task::spawn_blocking(move || {
            for dir in strays.into_iter().chain(unknown) {
                match remove_tree(&dir) {
                    // An empty record says nothing of images, so it held all of them.
                    Ok(()) => images.release(&dir.file_name().unwrap_or_default().to_string_lossy()),
                    Err(error) => {
                        tracing::warn!(
                            error = error.chain(),
                            "a directory of nobody's stays until the next start"
                        );
                    }
                }
            }
        });
    }
}

/// The live first, so that they get their names; those that have to go last.
fn in_order(mut records: Vec<ContainerRecord>) -> Vec<ContainerRecord> {
    records.sort_by_key(|record| {
        let phase = match record.phase {
            Phase::Running => 0,
            Phase::Created => 1,
            Phase::Exited => 2,
            Phase::Creating => 3,
        };
        (record.removing, phase)
    });
    records
}

/// A container that is undone kills the shim in its record: one that a container with a better right to it names is not its
/// own, whatever has happened to the record.
fn without_stolen_shims(records: Vec<ContainerRecord>) -> impl Iterator<Item = ContainerRecord> {
    let mut owned: HashSet<ProcessName> = HashSet::new();
    in_order(records).into_iter().map(move |mut record| {
        record.shim = record.shim.filter(|shim| owned.insert(*shim));
        record
    })
}

/// Whether the kernel may not have written a file back yet by itself. A clock that was set makes it more than there are.
fn is_recent(path: &Path) -> bool {
    let modified = path.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|then| then.elapsed().is_ok_and(|age| age < RECENT) || then > SystemTime::now())
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { operation: "list", path: dir.to_owned(), source };
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}
