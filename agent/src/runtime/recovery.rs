//! What a restarted agent does with what it finds.
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
//! | Ready       | holder gone           | NOTREADY                                              |
//! | Created, Running | shim answers     | adopted                                               |
//! | Created, Running | exit record      | EXITED as it says; if it is unfinished, its rest is done |
//! | Created, Running | neither          | killed by cgroup; EXITED 255, ShimDied                |
//!
//! A record that cannot be read is set aside beside its siblings, logged, and never fatal (`aside.rs`).

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use holdfast_pod::{
    holder::Holder,
    protocol::{Answer, ExitRecord, Phase, Request, SHIM_DIED_EXIT_CODE},
};
use tokio::sync::mpsc;

use super::{
    Error, Runtime,
    blocking::{blocking, now_ns},
    monitor::end_process,
    object::{Container, ContainerName, Kept, Pod, PodName},
    record::{self, ContainerRecord, PodPhase, PodRecord},
    shim::Shim,
    stats::Samples,
};

/// Longest wait for a shim to say where its container stands.
const STATE_LIMIT: Duration = Duration::from_secs(5);

impl Runtime {
    /// Adopts, finishes or undoes everything that the records name.
    pub(super) async fn recover(&self) -> Result<(), Error> {
        let (pods_dir, containers_dir) = (self.config.root.join("pods"), self.config.root.join("containers"));
        let pods = blocking(move || record::load::<PodRecord>(&pods_dir)).await?;
        let containers = blocking(move || record::load::<ContainerRecord>(&containers_dir)).await?;
        for (dir, reason) in containers.nameless {
            self.set_container_aside(dir, reason).await;
        }
        for (dir, reason) in pods.nameless {
            self.set_pod_aside(dir, reason).await;
        }
        for record in pods.records {
            self.recover_pod(record).await;
        }
        let mut adopting = tokio::task::JoinSet::new();
        for record in containers.records {
            let runtime = self.clone();
            adopting.spawn(async move { runtime.recover_container(record).await });
        }
        while adopting.join_next().await.is_some() {}
        self.finish_removals().await;
        self.settle_stores().await;
        self.check_networks();
        Ok(())
    }

    /// CHECK for the pods that were adopted: whatever happened to their networks meanwhile is told. Nobody waits for it.
    fn check_networks(&self) {
        let runtime = self.clone();
        tokio::spawn(async move {
            for pod in runtime.all_pods().into_iter().filter(|pod| runtime.network.get(&pod.id).is_some()) {
                let Some(holder) = pod.holder() else { continue };
                let Ok(netns) = runtime.netns(&pod.record.get(), &holder).await else { continue };
                if let Err(error) = runtime.network.check(&pod.id, netns).await {
                    let error = Error::Network {
                        operation: "check the network",
                        pod: pod.id.to_string(),
                        source: error,
                    };
                    tracing::warn!(pod_sandbox_id = %pod.id, error = %error.chain(), "network of an adopted pod sandbox");
                }
            }
        });
    }

    async fn recover_pod(&self, record: PodRecord) {
        let dir = self.pod_dir(&record.id);
        let wanted = PodName::of(&record);
        let Some(name) = self.pod_names.adopt(&wanted, record.id.as_str()) else {
            self.set_pod_aside(dir, "its name is taken by another record".to_owned()).await;
            return;
        };
        let same_boot = record.boot_id == self.boot_id;
        let holder = match record.holder.filter(|_| same_boot) {
            Some(holder) => {
                blocking(move || Holder::find(holder.pid, holder.start_time)).await.ok().flatten()
            }
            None => None,
        };
        let (id, phase, level) = (record.id.clone(), record.phase, self.adopt_level(&record));
        let pod = Arc::new(Pod {
            id: id.clone(),
            record: Kept::new(dir.clone(), record),
            dir,
            life: tokio::sync::RwLock::default(),
            holder: std::sync::Mutex::new(holder.map(Arc::new)),
            forwards: super::session::Forwards::default(),
            name,
            level,
        });
        if phase == PodPhase::Creating {
            if let Err(error) = self.unmake_pod(&pod).await {
                tracing::warn!(pod_sandbox_id = %id, error = %error.chain(), "undo of an unfinished RunPodSandbox");
            }
            return;
        }
        if phase == PodPhase::Ready && pod.holder().is_none() {
            log_record(pod.record.learn(|record| record.phase = PodPhase::NotReady).await);
        }
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(id, pod.clone());
        self.watch_holder(&pod);
    }

    async fn recover_container(&self, record: ContainerRecord) {
        let dir = self.container_dir(&record.id);
        let wanted = ContainerName::new(record.pod_id.clone(), record.config.metadata.clone());
        let Some(name) = self.container_names.adopt(&wanted, record.id.as_str()) else {
            self.set_container_aside(dir, "its name is taken by another record".to_owned()).await;
            return;
        };
        let same_boot = record.boot_id == self.boot_id;
        let (id, pod_id, phase) = (record.id.clone(), record.pod_id.clone(), record.phase);
        let container = Arc::new(Container {
            id: id.clone(),
            pod_id,
            record: Kept::new(dir.clone(), record),
            dir,
            life: tokio::sync::Mutex::default(),
            shim: std::sync::Mutex::default(),
            exited: tokio::sync::watch::Sender::new(phase == Phase::Exited),
            exec_base: std::sync::Mutex::default(),
            samples: Samples::default(),
            name,
        });
        if phase == Phase::Creating {
            if let Err(error) = self.unmake_container(&container).await {
                tracing::warn!(container_id = %id, error = %error.chain(), "undo of an unfinished CreateContainer");
            }
            return;
        }
        self.containers.write().unwrap_or_else(PoisonError::into_inner).insert(id, container.clone());
        match phase {
            Phase::Exited => {}
            _ if same_boot => self.adopt_container(&container).await,
            _ => self.lost_with_the_boot(&container).await,
        }
    }

    async fn adopt_container(&self, container: &Arc<Container>) {
        let (sender, notices) = mpsc::unbounded_channel();
        let run_dir = self.run_dir(&container.id);
        // Registering with tokio's reactor needs a worker's context; connect() to a listening socket does not wait.
        let Ok(shim) = Shim::connect(&run_dir, sender) else {
            self.end_shim(container).await;
            self.shim_gone(container).await;
            return;
        };
        if let Ok(Answer::State(state)) = shim.call(Request::State, &[], STATE_LIMIT).await {
            log_record(
                container
                    .record
                    .learn(|record| {
                        record.phase =
                            if state.phase == Phase::Running { Phase::Running } else { record.phase };
                        record.started_at_ns = state.started_at_ns.max(record.started_at_ns);
                    })
                    .await,
            );
            *container.shim.lock().unwrap_or_else(PoisonError::into_inner) = Some(shim);
            self.watch_shim(container, notices);
        } else {
            drop(shim);
            self.end_shim(container).await;
            self.shim_gone(container).await;
        }
    }

    /// A shim that does not answer is of no use; what it held is killed with the cgroup. One that is just ending
    /// by itself gets the time to write its record.
    async fn end_shim(&self, container: &Container) {
        let Some(name) = container.record.get().shim else { return };
        let found = blocking(move || holdfast_sys::proc::open_identified(name.pid, name.start_time)).await;
        if let Ok(Some(pidfd)) = found {
            let ended = blocking(move || {
                holdfast_sys::pidfd::wait_exit(std::os::fd::AsFd::as_fd(&pidfd), STATE_LIMIT)
            })
            .await;
            if !matches!(ended, Ok(true)) {
                end_process(name).await;
            }
        }
    }

    async fn lost_with_the_boot(&self, container: &Arc<Container>) {
        let record = container.record.get();
        let exit = ExitRecord {
            exit_code: SHIM_DIED_EXIT_CODE,
            started_at_ns: record.started_at_ns,
            finished_at_ns: now_ns(),
            reason: "NodeRebooted".to_owned(),
            message: "the node was restarted while the container ran".to_owned(),
            ..ExitRecord::default()
        };
        let path = container.dir.join(holdfast_pod::protocol::EXIT_RECORD_NAME);
        let known = blocking(move || super::monitor::read_exit_record(&path)).await;
        let known = known.map(|record| ExitRecord { unfinished: false, ..record });
        self.container_exited(container, known.unwrap_or(exit)).await;
    }

    async fn finish_removals(&self) {
        for container in self.all_containers() {
            let pod_known = self.pod(container.pod_id.as_str()).is_ok();
            if (container.record.get().removing || !pod_known)
                && let Err(error) = self.remove_container_now(&container).await
            {
                tracing::warn!(container_id = %container.id, error = %error.chain(), "finish an interrupted removal");
            }
        }
        for pod in self.all_pods() {
            if pod.record.get().phase == PodPhase::Removing
                && let Err(error) = self.remove_pod(&pod).await
            {
                tracing::warn!(pod_sandbox_id = %pod.id, error = %error.chain(), "finish an interrupted removal");
            }
        }
    }

    async fn settle_stores(&self) {
        let owners: HashSet<String> =
            self.all_containers().iter().map(|container| container.id.to_string()).collect();
        let known: HashSet<_> = self.all_pods().iter().map(|pod| pod.id.clone()).collect();
        self.network.recover(&known).await;
        let (state, containers) = (self.config.state.join("containers"), owners);
        blocking(move || remove_unknown(&state, &containers)).await;
    }
}

fn log_record<T>(result: Result<T, record::RecordError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a record does not say what is known");
    }
}

/// Run directories of containers that nobody knows.
fn remove_unknown(dir: &Path, known: &HashSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
