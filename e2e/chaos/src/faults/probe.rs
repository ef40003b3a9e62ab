//! Asks what a kubelet asks all the time, and measures how long the longest answer took.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_cri::v1;
use tokio::{task::JoinHandle, time::sleep};
use tonic::Code;

use crate::{
    ledger::Fault,
    rpc,
    wire::{Outcome, outcome},
    world::{Caller, World},
};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// Nobody waits longer for a list.
const LIMIT: Duration = Duration::from_secs(10);
/// An answer that takes longer is a finding.
const FAST: Duration = Duration::from_secs(2);

/// Who asks.
#[derive(Debug)]
pub struct Probe {
    over: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Answers.
    pub answers: u64,
    /// Calls without one: no connection, or refused.
    pub failures: u64,
    /// The longest.
    pub longest: Duration,
}

impl Probe {
    /// Begins to ask.
    pub fn start(world: &Arc<World>) -> Self {
        let (caller, over) = (Caller::new(world, "probe"), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(ask(caller, over.clone()));
        Self { over, task }
    }

    /// Ends it.
    pub async fn end(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

async fn ask(caller: Caller, over: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let (status, pods, containers) = (
        rpc::status(v1::StatusRequest::default()),
        rpc::list_pod_sandbox(v1::ListPodSandboxRequest::default()),
        rpc::list_containers(v1::ListContainersRequest::default()),
    );
    while !over.load(Ordering::Relaxed) {
        let cri = || caller.cri.clone();
        let begin = Instant::now();
        note(&caller, "Status", outcome(status(cri()), LIMIT).await, begin, &mut seen);
        let begin = Instant::now();
        note(&caller, "ListPodSandbox", outcome(pods(cri()), LIMIT).await, begin, &mut seen);
        let begin = Instant::now();
        note(&caller, "ListContainers", outcome(containers(cri()), LIMIT).await, begin, &mut seen);
        sleep(PAUSE).await;
    }
    seen
}

fn note<T>(caller: &Caller, method: &str, came: Outcome<T>, begin: Instant, seen: &mut Seen) {
    let time = begin.elapsed();
    match came {
        Outcome::Answer(_) => {
            seen.answers += 1;
            seen.longest = seen.longest.max(time);
            if time > FAST {
                caller.found(Fault::Slow, &format!("{method}: {:.1} s", time.as_secs_f64()));
            }
        }
        Outcome::Cut => {
            seen.failures += 1;
            seen.longest = seen.longest.max(time);
            caller.found(Fault::Slow, &format!("{method}: no answer in {} s", LIMIT.as_secs()));
        }
        // Whoever starves the daemon knows.
        Outcome::Lost(_) => seen.failures += 1,
        Outcome::Refused(status) => {
            seen.failures += 1;
            if status.code() != Code::Unavailable {
                caller.found(Fault::Stuck, &format!("{method}: {status}"));
            }
        }
    }
}
