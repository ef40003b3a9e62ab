//! StopContainer: the stop signal, the grace period, SIGKILL. Idempotent.
//!
//! The shim is asked first, since it knows best what belongs to the container. None of it depends on the shim, though: the
//! kernel delivers signals by pidfd and kills by cgroup, and a shim that does not answer then is killed as well.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use holdfast_pod::protocol::{Answer, Created, ExitRecord, Phase, Request};
use tokio::time::{Instant, timeout};

use super::{
    Error, Runtime,
    blocking::blocking,
    monitor::{end_process, read_exit_record, shim_died},
    object::Container,
    shim::ShimError,
};

/// Longest wait for the exit of a killed container whose shim answers: hooks run, and another runtime deletes.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for a shim to do what takes it no time.
pub(super) const ORDER_LIMIT: Duration = Duration::from_secs(2);
/// How long a container may take to exit of SIGKILL.
const EXIT_LIMIT: Duration = Duration::from_secs(2);
/// How often a shim is asked whether it is still at work.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// Shortest wait for a start that is under way, with a grace period of nothing.
const START_GRACE: Duration = Duration::from_secs(1);

impl Runtime {
    /// Stops a container: its stop signal, then SIGKILL after `timeout_s` seconds (at once if 0 or less). One that
    /// does not run is stopped already; an unknown id is success, as the kubelet expects.
    pub async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let runtime = self.clone();
        let grace = Duration::from_secs(timeout_s.max(0).unsigned_abs());
        self.detached(async move { runtime.stop_within(&container, grace).await }).await
    }

    async fn stop_within(&self, container: &Arc<Container>, grace: Duration) -> Result<(), Error> {
        if container.phase() == Phase::Created {
            // A start may be under way. Once it is over the container runs; one that hangs is killed with it.
            if timeout(grace.max(START_GRACE), container.life.lock()).await.is_err() {
                return self.kill_container(container).await;
            }
        }
        if container.phase() != Phase::Running {
            return Ok(());
        }
        container.end_is_wanted.store(true, Ordering::Relaxed);
        if !grace.is_zero() && self.ask_to_stop(container, grace).await {
            return Ok(());
        }
        self.kill_container(container).await
    }

    /// Whether the container went by itself within its grace period.
    async fn ask_to_stop(&self, container: &Container, grace: Duration) -> bool {
        let began = Instant::now();
        let signal = container.record.get().stop_signal;
        let sent = match container.shim() {
            Some(shim) => shim.order_within(ORDER_LIMIT.min(grace), Request::Signal { signal }).await.is_ok(),
            None => false,
        };
        if !sent {
            let init = container.record.get().init.clone();
            let sent = blocking(move || signal_init(&init, signal)).await;
            tracing::debug!(container_id = %container.id, sent, "the stop signal goes past the shim");
        }
        timeout(grace.saturating_sub(began.elapsed()), container.wait_exited()).await.is_ok()
    }

    /// SIGKILL to everything in the container, through the shim or, without its help, through the cgroup. Answers
    /// when the container has exited.
    pub(super) async fn kill_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        container.end_is_wanted.store(true, Ordering::Relaxed);
        match container.phase() {
            Phase::Exited => return Ok(()),
            // Nobody was told of it, and nobody follows it: it is being undone.
            Phase::Creating => return self.kill_group(container).await,
            Phase::Created | Phase::Running => {}
        }
        if let Some(shim) = container.shim()
            && shim.order_within(ORDER_LIMIT, Request::Kill).await.is_ok()
            && timeout(EXIT_LIMIT, container.wait_exited()).await.is_ok()
        {
            return Ok(());
        }
        self.kill_group(container).await?;
        // Nothing of the container lives any more, and all that is missing is the shim's word for it.
        if self.shim_reports(container).await {
            return Ok(());
        }
        self.end_shim(container).await
    }

    async fn kill_group(&self, container: &Container) -> Result<(), Error> {
        let killed = self.cgroups.kill(&container.record.get().cgroup).await;
        killed.map_err(|source| Error::Cgroup { operation: "kill what is in container", source })
    }

    /// Waits for the exit as long as the shim answers. `false`: it does not.
    async fn shim_reports(&self, container: &Container) -> bool {
        let deadline = Instant::now() + KILL_LIMIT;
        while Instant::now() < deadline {
            if timeout(ASK_PAUSE, container.wait_exited()).await.is_ok() {
                return true;
            }
            let Some(shim) = container.shim() else { return false };
            let answer = timeout(ORDER_LIMIT, shim.call(Request::State, &[], ORDER_LIMIT)).await;
            if !matches!(answer, Ok(Ok(Answer::State(_)) | Err(ShimError::Failed(_)))) {
                return false;
            }
        }
        false
    }

    /// Kills the shim of a container of which nothing else lives.
    async fn end_shim(&self, container: &Arc<Container>) -> Result<(), Error> {
        let record = container.record.get();
        if let Some(shim) = record.shim.filter(|_| record.boot_id == self.boot_id) {
            tracing::warn!(container_id = %container.id, pid = shim.pid, "the shim of a killed container does not answer: it is killed");
            if !end_process(shim).await {
                // In a call of the kernel that nothing ends. It will not come back from there.
                self.exit_past_shim(container).await;
            }
        }
        // Whoever follows the shim sees its end.
        timeout(KILL_LIMIT, container.wait_exited()).await.map_err(|_| Error::Timeout {
            operation: "stop container",
            object: container.id.to_string(),
            stage: "wait for the killed shim to end",
            limit: KILL_LIMIT,
        })
    }

    /// The exit of a container whose killed shim hangs in the kernel.
    async fn exit_past_shim(&self, container: &Arc<Container>) {
        let path = container.dir.join(holdfast_pod::protocol::EXIT_RECORD_NAME);
        let known = blocking(move || read_exit_record(&path)).await.ok().flatten();
        let known = known.map(|record| ExitRecord { unfinished: false, ..record });
        let exit = known.unwrap_or_else(|| shim_died(container.record.get().started_at_ns));
        self.container_exited(container, exit).await;
    }
}

/// Whether the signal was sent. Blocking.
fn signal_init(init: &Created, signal: i32) -> bool {
    let found = holdfast_sys::proc::open_identified(init.pid, init.start_time);
    matches!(&found, Ok(Some(pidfd)) if holdfast_sys::pidfd::signal(pidfd, signal).is_ok())
}
