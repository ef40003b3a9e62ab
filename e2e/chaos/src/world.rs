//! What all clients of a run share, and a call that is asked again until the server answers.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{sync::watch, time::sleep};
use tonic::{Code, Response, Status};

use crate::{
    events::Events,
    ledger::{Fault, Finding, Ledger},
    wire::{Cri, Outcome, kind_of, outcome},
};

/// Longest wait for an answer to a call that is not cut off. RunPodSandbox and StopContainer may take their time; nothing
/// takes more.
pub const CALL_LIMIT: Duration = Duration::from_secs(100);
/// Longest wait for a server that is being started.
const DOWN_LIMIT: Duration = Duration::from_mins(1);
/// Between two tries of a call that was refused.
const AGAIN: Duration = Duration::from_millis(250);

/// Whether the runtime serves, and which start of it that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Up {
    /// Counts starts that came to serve.
    pub generation: u64,
    /// From its first answer until it is killed.
    pub serving: bool,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// Where logs of containers go.
    pub logs: PathBuf,
    /// The pods' parent cgroup; empty: the runtime's default.
    pub cgroup_parent: String,
    /// What was seen.
    pub ledger: Ledger,
    /// The same in order.
    pub events: Events,
    /// Whether the runtime serves.
    pub up: watch::Receiver<Up>,
    /// Calls that were sent, by all clients.
    pub sent: AtomicU64,
    /// Clients end at their next step.
    pub stop: AtomicBool,
}

/// A call that did not get what it asked for.
#[derive(Debug)]
pub enum Failure {
    /// The server refused; `again`: it had been asked before without an answer.
    Refused {
        /// Its words.
        status: Status,
        /// Whether this was a retry.
        again: bool,
    },
    /// Nobody answered.
    Silence,
}

impl Failure {
    /// Whether the server does not know the object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::NotFound)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { status, .. } => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Silence => f.write_str("no answer"),
        }
    }
}

/// Somebody who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its connection.
    pub cri: Cri,
    /// What it shares.
    pub world: Arc<World>,
    /// Its name in the log.
    pub name: String,
    /// Refusals are what it expects, and are not counted.
    expects_refusals: bool,
}

impl Caller {
    /// With a connection of its own.
    pub fn new(world: &Arc<World>, name: &str) -> Self {
        Self {
            cri: Cri::to(&world.socket),
            world: world.clone(),
            name: name.to_owned(),
            expects_refusals: false,
        }
    }

    /// For calls that are to be refused.
    #[must_use]
    pub fn expecting_refusals(&self) -> Self {
        Self { expects_refusals: true, ..self.clone() }
    }

    /// Calls until the server has answered, over its deaths and the client's own time-outs.
    pub async fn settle<T, F>(
        &self,
        method: &str,
        cuts: &[Duration],
        call: impl Fn(Cri) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut cuts = cuts.iter();
        let mut again = false;
        let mut down = Duration::ZERO;
        loop {
            let cut = cuts.next();
            self.world.sent.fetch_add(1, Ordering::Relaxed);
            let begin = Instant::now();
            let came = outcome(call(self.cri.clone()), *cut.unwrap_or(&CALL_LIMIT)).await;
            let time = begin.elapsed();
            let tell = |what: &str, more: &str| {
                let ms = time.as_secs_f64() * 1000.0;
                self.world.events.add(
                    &self.name,
                    method,
                    &json!({"came": what, "ms": ms, "again": again, "text": more}),
                );
            };
            match came {
                Outcome::Answer(answer) => {
                    tell("answer", "");
                    self.world.ledger.answered(method, time);
                    return Ok(answer);
                }
                Outcome::Refused(status) => {
                    tell("refused", status.message());
                    if !self.expects_refusals {
                        self.world.ledger.refused(kind_of(method, &status));
                    }
                    return Err(Failure::Refused { status, again });
                }
                Outcome::Cut if cut.is_some() => {
                    tell("cut", "");
                    self.world.ledger.cut();
                }
                Outcome::Cut => {
                    self.found(Fault::Hang, &format!("{method}: no answer in {} s", CALL_LIMIT.as_secs()));
                    return Err(Failure::Silence);
                }
                Outcome::Lost(text) => {
                    tell("lost", &text);
                    self.world.ledger.lost();
                    let begin = Instant::now();
                    self.back().await;
                    down += begin.elapsed();
                    if down > DOWN_LIMIT {
                        self.found(
                            Fault::Hang,
                            &format!("{method}: no server in {} s", DOWN_LIMIT.as_secs()),
                        );
                        return Err(Failure::Silence);
                    }
                }
            }
            again = true;
        }
    }

    /// The same for calls that a kubelet repeats until they succeed: a refusal is asked again, so many times.
    pub async fn insist<T, F>(
        &self,
        method: &str,
        tries: usize,
        cuts: &[Duration],
        call: impl Fn(Cri) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut result = self.settle(method, cuts, &call).await;
        for _ in 1..tries {
            match &result {
                Err(Failure::Refused { .. }) => sleep(AGAIN).await,
                _ => return result,
            }
            result = self.settle(method, &[], &call).await;
        }
        if let Err(failure) = &result {
            self.found(Fault::Stuck, &format!("{method}: {failure}"));
        }
        result
    }

    /// Notes what must not be.
    pub fn found(&self, fault: Fault, detail: &str) {
        let at_ms = self.world.events.elapsed().as_millis() as u64;
        self.world.events.add(&self.name, "FOUND", &json!({"fault": fault, "detail": detail}));
        self.world.ledger.found(Finding { fault, detail: format!("{}: {detail}", self.name), at_ms });
    }

    /// Whether clients should end.
    pub fn is_over(&self) -> bool {
        self.world.stop.load(Ordering::Relaxed)
    }

    /// The start of the server that serves now.
    pub fn generation(&self) -> u64 {
        self.world.up.borrow().generation
    }

    /// Waits until the server is there again. Whoever kills it may not have said so yet.
    async fn back(&self) {
        sleep(Duration::from_millis(5)).await;
        let mut up = self.world.up.clone();
        let serving = up.wait_for(|up| up.serving);
        let _ = tokio::time::timeout(DOWN_LIMIT, serving).await;
    }
}
