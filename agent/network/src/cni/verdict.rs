//! STATUS: the plugins' own word on whether they can serve ADD (CNI specification 1.1, section 2).
//!
//! Nobody waits for a plugin that hangs: it is asked in the background, and whoever comes meanwhile gets the last answer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use super::{Cni, conf::ConfList};
use crate::NetworkStatus;

/// Time that an answer stands: the kubelet asks every 5 s, and gets a new one each time.
const FRESH: Duration = Duration::from_secs(2);
/// Limit of a client's wait for a new answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The last answer of the plugins of one list.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    list: Option<Arc<ConfList>>,
    /// Time of the answer. `None`: there is none yet.
    at: Option<Instant>,
    asking: bool,
    problem: Option<String>,
}

impl Verdict {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the plugins have to be asked now. Another list begins anew.
    fn begin(&self, list: &Arc<ConfList>) -> bool {
        let mut state = self.state();
        if !state.list.as_ref().is_some_and(|known| Arc::ptr_eq(known, list)) {
            *state = State { list: Some(list.clone()), ..State::default() };
        }
        let ask = !state.asking && state.at.is_none_or(|at| at.elapsed() >= FRESH);
        state.asking |= ask;
        ask
    }

    fn end(&self, list: &Arc<ConfList>, problem: Option<String>) {
        let mut state = self.state();
        // Else it is about a list that is no longer in force.
        if state.list.as_ref().is_some_and(|known| Arc::ptr_eq(known, list)) {
            *state = State { list: Some(list.clone()), at: Some(Instant::now()), asking: false, problem };
        }
        drop(state);
        self.told.notify_waiters();
    }

    fn last(&self) -> NetworkStatus {
        match &*self.state() {
            State { at: None, .. } => NetworkStatus::not_ready(
                "NetworkPluginNotReady",
                "the CNI plugins have not answered STATUS yet".to_owned(),
            ),
            State { problem: None, .. } => NetworkStatus::ready(),
            State { problem: Some(problem), .. } => {
                NetworkStatus::not_ready("NetworkPluginNotReady", problem.clone())
            }
        }
    }
}

impl Cni {
    /// The answer of the list's plugins to STATUS, or their last one.
    pub(super) async fn verdict(self: &Arc<Self>, list: &Arc<ConfList>) -> NetworkStatus {
        let mut told = std::pin::pin!(self.verdict.told.notified());
        told.as_mut().enable();
        if self.verdict.begin(list) {
            let (cni, list) = (self.clone(), list.clone());
            tokio::spawn(async move {
                let answer = cni.chain_of_no_pod(&list, cni.limit).status().await;
                let problem = answer
                    .err()
                    .map(|error| format!("{}: {}", list.file.display(), holdfast_model::chain(&error)));
                cni.verdict.end(&list, problem);
            });
        }
        if self.verdict.state().asking {
            // What comes of it is in the state.
            let _ = timeout(PATIENCE, told).await;
        }
        self.verdict.last()
    }
}
