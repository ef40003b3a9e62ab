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
                    Notice::Event(Event::Warning { text }) => log_warning(&container, &text),
                    Notice::Event(Event::ExecExited { .. } | Event::AttachCut { .. }) => {}
                    Notice::Closed => break,
                }
            }
            runtime.shim_gone(&container).await;
        });
    }

    /// The shim went without saying how the container ended: its record tells, or it died. A record that is unfinished is
    /// the truth as well: what is missing is what the shim would have done after it, and that is done here.
    pub(super) async fn shim_gone(&self, container: &Arc<Container>) {
        let mut written = self.exit_record(container).await;
        if written.as_ref().is_none_or(|record| record.unfinished) {
            // It may have lost no more than its connection. Then it writes no other record behind our back.
            if let Some(name) = container.record.get().shim {
                end_process(name).await;
            }
            written = self.exit_record(container).await.or(written);
        }
        let record = match written {
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

    async fn exit_record(&self, container: &Container) -> Option<ExitRecord> {
        let path = container.dir.join(EXIT_RECORD_NAME);
        blocking(move || read_exit_record(&path)).await
    }

    /// Kills what is left of a container, and runs its last hooks.
    async fn end_without_shim(&self, container: &Arc<Container>) {
        tracing::warn!(container_id = %container.id, "shim ended unexpectedly: what is left of the container is killed");
        if let Err(error) = self.cgroups.kill(&container.record.get().cgroup).await {
            tracing::warn!(container_id = %container.id, %error, "processes of a container without shim may be left");
        }
        self.poststop_hooks(container).await;
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

fn log_warning(container: &Container, text: &str) {
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

fn shim_died(started_at_ns: i64) -> ExitRecord {
    ExitRecord {
        exit_code: SHIM_DIED_EXIT_CODE,
        started_at_ns,
        finished_at_ns: now_ns(),
        reason: "ShimDied".to_owned(),
        message: "the container's shim ended unexpectedly; its processes were killed".to_owned(),
        ..ExitRecord::default()
    }
}

pub(super) fn read_exit_record(path: &std::path::Path) -> Option<ExitRecord> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, EXIT_RECORD_LIMIT), &mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}
