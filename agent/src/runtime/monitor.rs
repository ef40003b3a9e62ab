//! What the agent does when something ends: a holder, a shim, a container.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, PoisonError},
    time::Duration,
};

use holdfast_pod::protocol::{EXIT_RECORD_NAME, Event, ExitRecord, Phase, SHIM_DIED_EXIT_CODE};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Runtime,
    async_fd::async_fd,
    blocking::{blocking, now_ns, remove_tree},
    object::{Container, Pod},
    record::{PodPhase, ProcessName},
    shim::Notice,
};

/// Largest exit record, in bytes.
const EXIT_RECORD_LIMIT: u64 = 64 << 10;
/// Longest wait for a killed process.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Marks the pod NOTREADY when its holder ends, whoever ended it.
    pub(super) fn watch_holder(&self, pod: &Arc<Pod>) {
        let Some(holder) = pod.holder() else { return };
        let (runtime, pod) = (self.clone(), pod.clone());
        let Ok(pidfd) = holder.pidfd().try_clone_to_owned() else { return };
        drop(holder);
        tokio::spawn(async move {
            wait_end(&pidfd).await;
            reap_now(&pidfd);
            pod.take_holder();
            if pod.record.get().phase == PodPhase::Ready {
                tracing::info!(pod_sandbox_id = %pod.id, "holder ended: the pod sandbox is NOTREADY");
                if let Err(error) = pod.record.learn(|record| record.phase = PodPhase::NotReady).await {
                    tracing::warn!(pod_sandbox_id = %pod.id, %error, "pod sandbox is NOTREADY, but its record does not say so");
                }
            }
            drop(runtime);
        });
    }

    /// Follows a container's shim to its end.
    pub(super) fn watch_shim(
        &self,
        container: &Arc<Container>,
        mut notices: mpsc::UnboundedReceiver<Notice>,
    ) {
        let (runtime, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                match notice {
                    Notice::Event(Event::Exited(record)) => {
                        runtime.container_exited(&container, record).await;
                        return;
                    }
                    Notice::Event(Event::OomKilled) => {
                        tracing::info!(container_id = %container.id, "out of memory: a process was killed");
                    }
                    Notice::Event(Event::Warning { text }) => {
                        tracing::warn!(container_id = %container.id, "{text}");
                    }
                    Notice::Event(Event::ExecExited { .. } | Event::AttachCut { .. }) => {}
                    Notice::Closed => break,
                }
            }
            runtime.shim_gone(&container).await;
        });
    }

    /// The shim went without saying how the container ended: its record tells, or it died.
    pub(super) async fn shim_gone(&self, container: &Arc<Container>) {
        let path = container.dir.join(EXIT_RECORD_NAME);
        if let Some(record) = blocking(move || read_exit_record(&path)).await {
            self.container_exited(container, record).await;
            return;
        }
        if container.record.get().removing {
            return;
        }
        tracing::warn!(container_id = %container.id, "shim ended without an exit record: the container is killed");
        if let Err(error) = self.cgroups.kill(&container.record.get().cgroup).await {
            tracing::warn!(container_id = %container.id, %error, "processes of a container without shim may be left");
        }
        self.poststop_hooks(container).await;
        let started_at_ns = container.record.get().started_at_ns;
        let record = ExitRecord {
            exit_code: SHIM_DIED_EXIT_CODE,
            started_at_ns,
            finished_at_ns: now_ns(),
            reason: "ShimDied".to_owned(),
            message: "the container's shim ended unexpectedly; its processes were killed".to_owned(),
            ..ExitRecord::default()
        };
        self.container_exited(container, record).await;
    }

    /// Records an exit and takes back what only a running container needs.
    pub(super) async fn container_exited(&self, container: &Arc<Container>, exit: ExitRecord) {
        let updated = container
            .record
            .learn(|record| {
                record.phase = Phase::Exited;
                if exit.started_at_ns != 0 {
                    record.started_at_ns = exit.started_at_ns;
                }
                record.exit = Some(exit);
            })
            .await;
        if let Err(error) = updated {
            tracing::warn!(container_id = %container.id, %error, "container has exited, but its record does not say so");
        }
        container.shim.lock().unwrap_or_else(PoisonError::into_inner).take();
        container.exec_base.lock().unwrap_or_else(PoisonError::into_inner).take();
        container.exited.send_replace(true);
        self.release_run_parts(container).await;
    }

    async fn release_run_parts(&self, container: &Container) {
        if let Some(runtime) = &container.record.get().runtime
            && let Err(error) = self.delete_from_runtime(runtime, container.id.as_str()).await
        {
            tracing::warn!(container_id = %container.id, error = %error.chain(), "what an OCI runtime has of an exited container");
        }
        if let Err(error) = self.cgroups.remove(&container.record.get().cgroup).await {
            tracing::warn!(container_id = %container.id, %error, "cgroup of an exited container stays until it is removed");
        }
        let run_dir = self.run_dir(&container.id);
        if let Err(error) = blocking(move || remove_tree(&run_dir)).await {
            tracing::warn!(container_id = %container.id, %error, "run directory of an exited container");
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

/// Waits until the process of a pidfd has ended.
async fn wait_end(pidfd: &OwnedFd) {
    match async_fd(pidfd.as_fd()) {
        Ok(fd) => {
            let _ = fd.readable().await;
        }
        Err(error) => tracing::warn!(%error, "cannot watch a process"),
    }
}

/// ECHILD is right for a process that an agent before us made.
fn reap_now(pidfd: &OwnedFd) {
    let _ = holdfast_sys::pidfd::reap(pidfd.as_fd());
}

/// SIGKILL to a process by its name, then waits for its end. A reused pid is never touched.
pub(super) async fn end_process(name: ProcessName) {
    let found = blocking(move || holdfast_sys::proc::open_identified(name.pid, name.start_time)).await;
    let Ok(Some(pidfd)) = found else { return };
    let _ = holdfast_sys::pidfd::signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = timeout(END_LIMIT, wait_end(&pidfd)).await;
    reap_now(&pidfd);
}

pub(super) fn read_exit_record(path: &std::path::Path) -> Option<ExitRecord> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, EXIT_RECORD_LIMIT), &mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
