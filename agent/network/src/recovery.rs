//! After a start: what earlier agents have left is queued, adopted or removed. Nobody waits for it.

use std::{collections::HashSet, sync::Arc};

use holdfast_model::{PodId, chain};

use crate::{
    network::Inner,
    record::{Phase, PodKind, Record},
    state::Stray,
};

impl Inner {
    /// Queues DEL for pods that the agent does not know and for all pods of another boot. Links without a record: that of a
    /// known pod is recorded anew from its alias, any other goes.
    pub(crate) async fn recover(self: &Arc<Self>, known: &HashSet<PodId>) {
        let queued = self.owe_unknown(known);
        if queued > 0 {
            tracing::info!(
                pods = queued,
                "networks of an earlier boot or of unknown pods are taken back in the background"
            );
        }
        let strays = self.state().take_strays();
        for stray in strays {
            self.settle_stray(stray, known).await;
        }
        self.owed.notify_one();
        // Puts right what happened to bridge and rules meanwhile.
        let inner = self.clone();
        tokio::spawn(async move { inner.look_ahead().await });
    }

    fn owe_unknown(&self, known: &HashSet<PodId>) -> usize {
        let mut state = self.state();
        let over = |record: &&Record| record.boot_id != self.boot_id || !known.contains(&record.pod);
        let pods: Vec<PodId> = state.records().filter(over).map(|record| record.pod.clone()).collect();
        pods.iter().filter(|pod| state.owe(pod).is_some()).count()
    }

    async fn settle_stray(self: &Arc<Self>, stray: Stray, known: &HashSet<PodId>) {
        let Stray { link, pod, addresses } = stray;
        match pod {
            Some(pod) if self.state().get(&pod).is_none() => {
                let network = PodKind::Embedded { link, addresses };
                let record = Record::new(&self.boot_id, pod, Vec::new(), network);
                self.adopt(record, known).await;
            }
            Some(pod) if known.contains(&pod) => {
                tracing::warn!(pod_sandbox_id = %pod, link, "link that the pod's record does not name: it is left alone");
            }
            _ => self.remove_later(link),
        }
    }

    /// A record that was lost is made anew, if only for DEL.
    async fn adopt(&self, record: Record, known: &HashSet<PodId>) {
        let pod = record.pod.clone();
        let record = Record { phase: Phase::Up, ..record };
        self.state().insert(record.clone());
        if !known.contains(&pod) {
            tracing::warn!(pod_sandbox_id = %pod, "link of an unknown pod without a record: it is removed");
            self.state().owe(&pod);
            return;
        }
        tracing::warn!(pod_sandbox_id = %pod, "record of the pod's network was lost: made anew without host ports");
        if let Err(error) = self.save(record).await {
            tracing::warn!(pod_sandbox_id = %pod, error = chain(&error), "the new record is kept in memory only");
        }
    }

    /// A link that does not say whose it is.
    fn remove_later(self: &Arc<Self>, link: String) {
        let inner = self.clone();
        tokio::spawn(async move {
            if let Err(error) = inner.embedded.remove_link(link.clone()).await {
                tracing::warn!(link, error = chain(&error), "link without a pod stays until the next start");
            }
        });
    }
}
