//! What was seen in a run: calls, errors by kind, and what must not be.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A thing that must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A container whose process nobody asked to end has ended, or that CRI no longer knows.
    ContainerLost,
    /// The same of a pod.
    PodLost,
    /// An exit code or a reason that is not the container's.
    WrongExit,
    /// A log that lacks a line, or has one too many, or a torn one.
    WrongLog,
    /// An exec with another exit code or output.
    WrongExec,
    /// CRI says one thing and the kernel another, or CRI what cannot be so.
    WrongState,
    /// What was told as stopped or removed is still there.
    NotGone,
    /// A call that was asked again did not get what the first one made.
    RetryRefused,
    /// Two objects of one name.
    Twice,
    /// A call without an answer.
    Hang,
    /// A call that failed however often it was asked.
    Stuck,
    /// Too late.
    Slow,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub fault: Fault,
    /// Of which object, and how it was seen.
    pub detail: String,
    /// Milliseconds since the run began.
    pub at_ms: u64,
}

/// The sums of a run.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Sums {
    /// Calls that were answered, by method.
    pub answered: BTreeMap<String, u64>,
    /// Calls that the server's death left without an answer.
    pub lost: u64,
    /// Calls that the client cut off.
    pub cut: u64,
    /// Errors that the server answered, by kind.
    pub errors: BTreeMap<String, u64>,
    /// What must not be.
    pub findings: Vec<Finding>,
    /// Longest call, in milliseconds, by method.
    pub longest_ms: BTreeMap<String, u64>,
}

/// The same, filled by many.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Sums>);

impl Ledger {
    /// A call was answered.
    pub fn answered(&self, method: &str, time: Duration) {
        let mut sums = self.lock();
        *sums.answered.entry(method.to_owned()).or_default() += 1;
        let longest = sums.longest_ms.entry(method.to_owned()).or_default();
        *longest = (*longest).max(time.as_millis() as u64);
    }

    /// A call lost its connection.
    pub fn lost(&self) {
        self.lock().lost += 1;
    }

    /// A call was cut off.
    pub fn cut(&self) {
        self.lock().cut += 1;
    }

    /// A call was refused.
    pub fn refused(&self, kind: String) {
        *self.lock().errors.entry(kind).or_default() += 1;
    }

    /// Something must not be.
    pub fn found(&self, finding: Finding) {
        self.lock().findings.push(finding);
    }

    /// All so far.
    pub fn sums(&self) -> Sums {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
