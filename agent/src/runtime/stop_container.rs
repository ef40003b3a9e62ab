//! StopContainer: the stop signal, the grace period, SIGKILL. Idempotent.

use std::{sync::Arc, time::Duration};

use holdfast_pod::protocol::{Phase, Request};
use tokio::time::timeout;

use super::{Error, Runtime, object::Container};

/// Longest wait for the exit of a killed container.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(30);

impl Runtime {
    /// Stops a container: its stop signal, then SIGKILL after `timeout_s` seconds (at once if 0 or less). One that
    /// does not run is stopped already; an unknown id is success, as the kubelet expects.
    pub async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if container.phase() != Phase::Running {
            return Ok(());
        }
        let runtime = self.clone();
        let grace = Duration::from_secs(timeout_s.max(0).unsigned_abs());
        self.detached(async move {
            if !grace.is_zero() && runtime.ask_to_stop(&container, grace).await {
                return Ok(());
            }
            runtime.kill_container(&container).await
        })
        .await
    }

    /// Whether the container went by itself within its grace period.
    async fn ask_to_stop(&self, container: &Container, grace: Duration) -> bool {
        let Some(shim) = container.shim() else { return true };
        let signal = container.record.get().stop_signal;
        if let Err(error) = shim.order(Request::Signal { signal }).await {
            tracing::debug!(container_id = %container.id, %error, "stop signal not delivered");
        }
        timeout(grace, container.wait_exited()).await.is_ok()
    }

    /// SIGKILL to everything in the container, through the shim or, without its help, through the cgroup. Answers
    /// when the container has exited.
    pub(super) async fn kill_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        if container.phase() == Phase::Exited {
            return Ok(());
        }
        if let Some(shim) = container.shim() {
            let _ = shim.order(Request::Kill).await;
        }
        if timeout(Duration::from_secs(2), container.wait_exited()).await.is_ok() {
            return Ok(());
        }
        self.cgroups
            .kill(&container.record.get().cgroup)
            .await
            .map_err(|source| Error::Cgroup { operation: "kill what is in container", source })?;
        timeout(KILL_LIMIT, container.wait_exited()).await.map_err(|_| Error::Timeout {
            operation: "stop container",
            object: container.id.to_string(),
            stage: "wait for the killed processes to end",
            limit: KILL_LIMIT,
        })
    }
}
