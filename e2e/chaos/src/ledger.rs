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

impl Finding {
    /// The client that saw it and the object that it is about: the text before the second colon.
    fn object(&self) -> &str {
        self.detail.match_indices(": ").nth(1).map_or(&self.detail, |(at, _)| &self.detail[..at])
    }
}

impl Fault {
    /// Whether it is an object's state, and no event.
    fn stays(self) -> bool {
        use Fault::{ContainerLost, NotGone, PodLost, Twice, WrongExit, WrongLog, WrongState};
        matches!(self, ContainerLost | NotGone | PodLost | Twice | WrongExit | WrongLog | WrongState)
    }
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

    /// Something must not be. What is wrong with an object is looked at again and again, and counted once.
    pub fn found(&self, finding: Finding) {
        let mut sums = self.lock();
        let known = |other: &Finding| other.fault == finding.fault && other.object() == finding.object();
        if !(finding.fault.stays() && sums.findings.iter().any(known)) {
            sums.findings.push(finding);
        }
    }

    /// All so far.
    pub fn sums(&self) -> Sums {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_state_counts_once_and_a_refusal_each_time() {
        let ledger = Ledger::default();
        for (fault, detail) in [
            (Fault::WrongExit, "client 1: container c1-0: not 3: 255"),
            (Fault::WrongExit, "client 1: container c1-0: not 3: 255 still"),
            (Fault::WrongExit, "client 1: container c1-1: not 3: 255"),
            (Fault::Stuck, "client 1: RunPodSandbox: Internal"),
            (Fault::Stuck, "client 1: RunPodSandbox: Internal"),
        ] {
            ledger.found(Finding { fault, detail: detail.to_owned(), at_ms: 0 });
        }
        assert_eq!(ledger.sums().findings.len(), 4);
    }
}
