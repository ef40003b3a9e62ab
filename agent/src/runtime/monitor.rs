//! What the agent does when something ends: a holder, a shim, a container.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use holdfast_pod::protocol::{EXIT_RECORD_NAME, Event, ExitRecord, Phase, SHIM_DIED_EXIT_CODE};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Runtime,
    async_fd::async_fd,
    backoff::Backoff,
    blocking::{blocking, now_ns, remove_tree},
    object::{Container, Link, Pod},
    record::{ContainerRecord, PodPhase, ProcessName},
    shim::Notice,
};

/// Largest exit record, in bytes.
const EXIT_RECORD_LIMIT: u64 = 64 << 10;
/// Longest wait for a killed process.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How often a process is looked at that cannot be watched.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a disk to take an exit that nobody has asked for.
pub(super) const DURABLE_LIMIT: Duration = Duration::from_secs(2);
/// Most attempts to read an exit record, with waits of 10 s in all.
const READ_ATTEMPTS: u32 = 10;

impl Runtime {
    /// Marks the pod NOTREADY when its holder ends, whoever ended it.
    pub(super) fn watch_holder(&self, pod: &Arc<Pod>) {
        let Some(holder) = pod.holder() else { return };
        let (runtime, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            wait_end(holder.pidfd()).await;
            reap_now(holder.pidfd());
            pod.take_holder();
            if pod.record.get().phase == PodPhase::Ready {
                tracing::info!(pod_sandbox_id = %pod.id, "holder ended: the pod sandbox is NOTREADY");
                pod.end().await;
            }
            drop(runtime);
        });
    }

    /// Ends a container whose shim's process is dead: the shim's record tells how, or there is none. A record that is unfinished
    /// is the truth as well: what is missing is what the shim would have done after it, and that is done here.
    pub(super) async fn shim_gone(&self, container: &Arc<Container>) {
        let record = match self.exit_record(container).await {
            Some(record) if !record.unfinished => record,
            written => {
                self.end_without_shim(container).await;
                match written {
                    Some(record) => ExitRecord { unfinished: false, ..record },
                    None => shim_died(container.record.get().started_at_ns),
                }
            }
        };
        self.container_exited(container, record).await;
    }

    /// The record that a shim has left. An exit code is worth some patience with a disk that fails or a table that is full.
    async fn exit_record(&self, container: &Container) -> Option<ExitRecord> {
        let mut backoff = Backoff::new(Duration::from_millis(10));
        for attempt in 1.. {
            let path = container.dir.join(EXIT_RECORD_NAME);
            match blocking(move || read_exit_record(&path)).await {
                Ok(record) => return record,
                Err(error) if attempt == READ_ATTEMPTS => {
                    tracing::warn!(container_id = %container.id, %error, "could not read how a container ended");
                }
                Err(_) => tokio::time::sleep(backoff.wait()).await,
            }
        }
        None
    }

    /// Kills what is left of a container, and runs its last hooks.
    async fn end_without_shim(&self, container: &Arc<Container>) {
        tracing::warn!(container_id = %container.id, "shim ended unexpectedly: what is left of the container is killed");
        if let Err(error) = self.cgroups.kill(&container.record.get().cgroup).await {
            let error = holdfast_model::chain(&error);
            tracing::warn!(container_id = %container.id, error, "processes of a container without shim may be left");
        }
        self.poststop_hooks(container).await;
    }

    /// Records an exit and takes back what only a running container needs.
    pub(super) async fn container_exited(&self, container: &Arc<Container>, exit: ExitRecord) {
        let _turn = container.ending.lock().await;
        if container.phase() == Phase::Exited {
            return;
        }
        let ended = |record: &mut ContainerRecord| {
            record.phase = Phase::Exited;
            if exit.started_at_ns != 0 {
                record.started_at_ns = exit.started_at_ns;
            }
            record.exit = Some(exit);
        };
        let tell = || {
            container.link.send_replace(Link::Ended);
            container.exec_base.lock().unwrap_or_else(PoisonError::into_inner).take();
            container.exited.send_replace(true);
        };
        if container.end_is_wanted.load(Ordering::Relaxed) {
            // Who asked for it waits for no disk. After a power cut it is EXITED all the same, for its record says that it ran.
            container.record.mark(ended).await;
            tell();
            let container = container.clone();
            tokio::spawn(async move { container.record.catch_up().await });
        } else {
            // A client that saw the end of a job never runs it again, so a power cut must not make it unheard of.
            container.record.conclude(ended, DURABLE_LIMIT, tell).await;
        }
        self.release_run_parts(container).await;
    }

    pub(super) async fn release_run_parts(&self, container: &Container) {
        if let Some(runtime) = &container.record.get().runtime
            && let Err(error) = self.delete_from_runtime(runtime, container.id.as_str()).await
        {
            tracing::warn!(container_id = %container.id, error = %error.chain(), "what an OCI runtime has of an exited container");
        }
        if let Err(error) = self.cgroups.remove(&container.record.get().cgroup).await {
            let error = holdfast_model::chain(&error);
            tracing::warn!(container_id = %container.id, error, "cgroup of an exited container stays until it is removed");
        }
        let run_dir = self.run_dir(&container.id);
        if let Err(error) = blocking(move || remove_tree(&run_dir)).await {
            tracing::warn!(container_id = %container.id, error = %error.chain(), "run directory of an exited container");
        }
    }

    /// Collects a child when it ends, so that no zombie is left.
    #[expect(clippy::unused_self, reason = "only a runtime has children")]
    pub(super) fn reap(&self, pidfd: OwnedFd) {
        tokio::spawn(async move {
            wait_end(&pidfd).await;
            reap_now(&pidfd);
        });
    }
}

pub(super) fn log_warning(container: &Container, text: &str) {
    tracing::warn!(container_id = %container.id, "{text}");
}

/// Logs what a shim has warned of whose container was never made: nobody follows it.
pub(super) fn log_warnings(container: &Container, notices: &mut mpsc::UnboundedReceiver<Notice>) {
    while let Ok(notice) = notices.try_recv() {
        if let Notice::Event(Event::Warning { text }) = notice {
            log_warning(container, &text);
        }
    }
}

/// Waits until the process of a pidfd has ended. If the reactor cannot watch it (EMFILE, ENOMEM, ENOSPC of
/// max_user_watches) it is looked at every second: a process that nobody watches would be READY for ever.
pub(super) async fn wait_end(pidfd: impl AsFd) {
    let pidfd = pidfd.as_fd();
    let watched = async { async_fd(pidfd)?.readable().await.map(drop) }.await;
    let Err(error) = watched else { return };
    tracing::warn!(%error, "could not watch a process: it is looked at every second");
    while let Ok(false) = holdfast_sys::pidfd::wait_exit(pidfd, Duration::ZERO) {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// ECHILD is right for a process that an agent before us made.
pub(super) fn reap_now(pidfd: impl AsFd) {
    let _ = holdfast_sys::pidfd::reap(pidfd);
}

/// SIGKILL to a process by its name, then waits for its end: whether it is dead. A reused pid is never touched.
pub(super) async fn end_process(name: ProcessName) -> bool {
    let found = blocking(move || holdfast_sys::proc::open_identified(name.pid, name.start_time)).await;
    let pidfd = match found {
        Ok(Some(pidfd)) => pidfd,
        Ok(None) => return true,
        Err(error) => {
            tracing::warn!(pid = name.pid, error = holdfast_model::chain(&error), "could not open a process");
            return false;
        }
    };
    let _ = holdfast_sys::pidfd::signal(&pidfd, libc::SIGKILL);
    let ended = timeout(END_LIMIT, wait_end(&pidfd)).await.is_ok();
    reap_now(&pidfd);
    ended
}

pub(super) fn shim_died(started_at_ns: i64) -> ExitRecord {
    ExitRecord {
        exit_code: SHIM_DIED_EXIT_CODE,
        started_at_ns,
        finished_at_ns: now_ns(),
        reason: "ShimDied".to_owned(),
        message: "the container's shim ended unexpectedly; its processes were killed".to_owned(),
        ..ExitRecord::default()
    }
}

/// `None`: there is none, or its bytes are none.
pub(super) fn read_exit_record(path: &std::path::Path) -> std::io::Result<Option<ExitRecord>> {
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    std::io::Read::read_to_end(&mut std::io::Read::take(file, EXIT_RECORD_LIMIT), &mut bytes)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// epoll takes a descriptor once, so the second watcher has to do without.
    #[tokio::test]
    async fn a_process_that_cannot_be_watched_is_not_taken_for_dead() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = holdfast_sys::pidfd::open(i32::try_from(child.id()).unwrap()).unwrap();
        let _watched = async_fd(pidfd.as_fd()).unwrap();
        assert!(async_fd(pidfd.as_fd()).is_err());
        assert!(timeout(Duration::from_millis(200), wait_end(&pidfd)).await.is_err(), "it lives");
        child.kill().unwrap();
        timeout(Duration::from_secs(10), wait_end(&pidfd)).await.unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_exit_record_is_there_or_not_or_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT_RECORD_NAME);
        assert_eq!(read_exit_record(&path).unwrap(), None);
        // The room that was taken for it.
        std::fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(read_exit_record(&path).unwrap(), None);
        let record = ExitRecord { exit_code: 3, ..ExitRecord::default() };
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(read_exit_record(&path).unwrap(), Some(record));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(EXIT_RECORD_NAME, &path).unwrap();
        read_exit_record(&path).unwrap_err();
    }
}
