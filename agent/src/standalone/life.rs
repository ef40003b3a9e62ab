//! The life of a pod's containers, as a kubelet leads it.
//!
//! ```text
//!  init containers, one after another      a sidecar among them stays, and the next one begins when it has started
//!  containers, begun in their order        each is started again as restartPolicy says, after a wait that grows
//!  the end: all of them rest               sidecars are stopped last, in reverse order
//! ```
//!
//! All of it is one future: whoever drops it stops it between two requests, and [`Life::stop`] then knows what runs.

use std::{cell::RefCell, time::Duration};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use holdfast_model::{IdMapping, PodSandboxConfig, chain};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    RunError,
    attempt::{exit_code, how},
    backoff::Backoff,
    cri::Cri,
    images::Images,
    logs::Logs,
    node::Node,
    place::Place,
    steps::Steps,
};
use crate::{
    cri::client::ContainerState,
    manifest::{Container, Pod, RestartPolicy},
};

/// A sidecar has this long to end, however much of the grace period is gone.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Everything that a container's life needs.
#[derive(Debug)]
pub struct Life<'a, C> {
    pub(super) cri: &'a C,
    pub(super) pod: &'a Pod,
    pub(super) sandbox_id: &'a str,
    pub(super) sandbox: &'a PodSandboxConfig,
    pub(super) ips: &'a [String],
    pub(super) images: &'a Images,
    pub(super) place: &'a Place,
    pub(super) node: &'a Node,
    pub(super) ids: &'a [IdMapping],
    pub(super) steps: &'a Steps,
    pub(super) logs: &'a Logs,
    /// What has been made and has not ended.
    pub(super) running: RefCell<Vec<Running>>,
}

/// A container that has been made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub id: String,
    pub name: String,
    /// A sidecar's place among the init containers.
    pub sidecar: Option<usize>,
    pub log: std::path::PathBuf,
}

/// A sidecar's beginning.
struct Gate<'a> {
    container: &'a Container,
    go: Notify,
    started: Notify,
}

impl<C: Cri> Life<'_, C> {
    /// Leads the containers to their natural end. Returns the code of the one that failed first, or 0.
    pub async fn lead(&self) -> Result<u8, RunError> {
        let sidecars = self.pod.init_containers.iter().filter(|container| container.sidecar);
        let gates: Vec<_> =
            sidecars.map(|container| Gate { container, go: Notify::new(), started: Notify::new() }).collect();
        tokio::select! {
            biased;
            ended = self.sequence(&gates) => ended,
            error = self.sidecars(&gates) => Err(error),
        }
    }

    async fn sequence(&self, gates: &[Gate<'_>]) -> Result<u8, RunError> {
        let mut gates = gates.iter();
        for container in &self.pod.init_containers {
            if container.sidecar {
                if let Some(gate) = gates.next() {
                    gate.go.notify_one();
                    gate.started.notified().await;
                }
                continue;
            }
            let code = self.keep(container, self.init_policy(), &Notify::new()).await?;
            if code != 0 {
                return Ok(code);
            }
        }
        self.main().await
    }

    /// An init container that has succeeded is done in any case.
    fn init_policy(&self) -> RestartPolicy {
        match self.pod.restart_policy {
            RestartPolicy::Never => RestartPolicy::Never,
            RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        }
    }

    /// The containers themselves: each begins when the one before it has, and all go on beside each other.
    async fn main(&self) -> Result<u8, RunError> {
        let begun: Vec<_> = self.pod.containers.iter().map(|_| Notify::new()).collect();
        let mut all = FuturesUnordered::new();
        let mut first_failure = 0;
        let mut ended = |code: u8| first_failure = if first_failure == 0 { code } else { first_failure };
        for (container, begun) in self.pod.containers.iter().zip(&begun) {
            all.push(self.keep(container, self.pod.restart_policy, begun));
            let mut waiting = true;
            while waiting {
                tokio::select! {
                    biased;
                    () = begun.notified() => waiting = false,
                    Some(code) = all.next() => ended(code?),
                }
            }
        }
        while let Some(code) = all.next().await {
            ended(code?);
        }
        Ok(first_failure)
    }

    /// The sidecars beside all that. Their ends do not count; an error of ours does.
    async fn sidecars(&self, gates: &[Gate<'_>]) -> RunError {
        let keep = async |gate: &Gate<'_>| {
            gate.go.notified().await;
            self.keep(gate.container, RestartPolicy::Always, &gate.started).await
        };
        let mut all: FuturesUnordered<_> = gates.iter().map(keep).collect();
        while let Some(ended) = all.next().await {
            if let Err(error) = ended {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Runs a container until its policy lets it rest. Returns its last exit code. `begun` is told when it has been
    /// started, or when that has failed; what comes after a sidecar waits until it has been started.
    async fn keep(
        &self,
        container: &Container,
        policy: RestartPolicy,
        begun: &Notify,
    ) -> Result<u8, RunError> {
        let mut backoff = Backoff::default();
        for attempt in 0.. {
            let code = self.once(container, attempt, begun).await?;
            if !container.sidecar {
                begun.notify_one();
            }
            let again = match policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => code != 0,
                RestartPolicy::Never => false,
            };
            if !again {
                return Ok(code);
            }
            let now = Instant::now();
            let at = backoff.restart_at(now);
            let wait = at - now;
            if !wait.is_zero() {
                self.steps.note(&format!(
                    "container {} is started again in {} s",
                    container.name,
                    wait.as_secs()
                ));
            }
            sleep_until(at).await;
        }
        Ok(0)
    }

    /// Stops what runs: the containers at once, then the sidecars from the last to the first, within the pod's grace
    /// period. What this cannot stop ends with the pod.
    pub async fn stop(&self) {
        let deadline = Instant::now() + Duration::from_secs(u64::from(self.pod.grace_s));
        let (mut sidecars, others): (Vec<_>, Vec<_>) =
            self.running.borrow().iter().cloned().partition(|running| running.sidecar.is_some());
        sidecars.sort_by_key(|running| std::cmp::Reverse(running.sidecar));
        join_all(others.iter().map(|running| self.stop_one(running, deadline))).await;
        for running in &sidecars {
            self.stop_one(running, deadline.max(Instant::now() + LEAST_GRACE)).await;
        }
    }

    async fn stop_one(&self, running: &Running, deadline: Instant) {
        let (step, name) = (self.steps.begin(), &running.name);
        let grace = deadline.saturating_duration_since(Instant::now());
        let grace_s = if self.pod.grace_s == 0 { 0 } else { grace.as_secs_f64().ceil() as i64 };
        match self.cri.stop_container(&running.id, grace_s).await {
            Ok(()) => {
                self.print_rest(running).await;
                let status = self.cri.container_status(&running.id).await;
                let status = status.ok().filter(|status| status.state == ContainerState::Exited);
                let how =
                    status.map_or(String::new(), |status| how(exit_code(status.exit_code), &status, ""));
                step.done(&format!("container {name} stopped{how}"));
            }
            Err(error) => self.steps.note(&format!("container {name} does not stop: {}", chain(&error))),
        }
    }
}
