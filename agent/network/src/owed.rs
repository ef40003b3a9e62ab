//! DEL: tried at once for who asks, and again in the background until it is done.
//!
//! A DEL that fails or hangs keeps nobody: a client waits for [`Limits::del`](crate::network::Limits) at most, and then
//! the pod is removed but for its network. What DEL needs stays: the record, the pin of the network namespace, and host
//! ports, which no other pod gets before. So it is with what an earlier agent has left: pods of another boot, pods that
//! nobody knows any more, and pins that were busy. A few are tried at a time, each after a pause that doubles.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use holdfast_model::{PodId, chain};
use tokio::{
    sync::OwnedMutexGuard,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::{
    Error,
    network::Inner,
    record::{CniRecord, PodKind, Record},
    state::Begun,
};

/// How many are tried at a time in the background.
const AT_ONCE: usize = 4;
/// When to look again at the latest; what is new wakes anyway.
const IDLE: Duration = Duration::from_hours(1);

/// Somebody who is about to try a pod's DEL, or waits for its turn.
#[derive(Debug)]
pub(crate) struct Worker {
    inner: Arc<Inner>,
    pod: PodId,
    /// Tries that there were when it began to wait: one more, and its own is not needed.
    tries: u32,
}

impl Worker {
    /// `None`: there is nothing to take back.
    fn new(inner: &Arc<Inner>, pod: &PodId) -> Option<Self> {
        let mut state = inner.state();
        let tries = state.owe(pod)?;
        state.debt(pod)?.add_worker();
        drop(state);
        Some(Self { inner: inner.clone(), pod: pod.clone(), tries })
    }

    /// Waits for the pod's lock, and makes a try unless another has made one meanwhile.
    async fn work(self) {
        let guard = self.inner.lock(&self.pod).lock_owned().await;
        self.work_with(guard).await;
    }

    async fn work_with(self, guard: OwnedMutexGuard<()>) {
        if self.inner.state().tries(&self.pod) == Some(self.tries) {
            self.inner.try_del(&self.pod).await;
        }
        drop(guard);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(debt) = self.inner.state().debt(&self.pod) {
            debt.remove_worker();
        }
        self.inner.owed.notify_one();
        self.inner.freed.notify_waiters();
    }
}

/// The background task. It ends when the last [`crate::Network`] is gone: it holds the state weakly, and is woken by
/// [`Inner`]'s drop.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    let (weak, wake) = (Arc::downgrade(inner), inner.owed.clone());
    tokio::spawn(async move {
        let mut working = JoinSet::new();
        while let Some(next) = start_due(&weak, &mut working) {
            tokio::select! {
                _ = working.join_next(), if !working.is_empty() => {}
                () = wake.notified() => {}
                () = sleep_until(next.into()) => {}
            }
        }
    });
}

/// Begins what is due, and says when to look again. `None`: there is no network any more.
fn start_due(inner: &Weak<Inner>, working: &mut JoinSet<()>) -> Option<Instant> {
    while working.try_join_next().is_some() {}
    let inner = inner.upgrade()?;
    let (pods, next) = inner.state().due(AT_ONCE - working.len());
    for worker in pods.iter().filter_map(|pod| Worker::new(&inner, pod)) {
        working.spawn(worker.work());
    }
    Some(next.unwrap_or_else(|| Instant::now() + IDLE))
}

impl Inner {
    /// DEL for a client: when this returns, it is done or owed. Goes on to its end when the caller goes away.
    pub(crate) async fn del(self: &Arc<Self>, pod: &PodId) -> Result<(), Error> {
        let Some(worker) = Worker::new(self, pod) else { return Ok(()) };
        if self.state().debt(pod).is_some_and(|debt| debt.is_waited_out()) {
            return Ok(());
        }
        let task = tokio::spawn(worker.work());
        self.wait_for(pod, task).await
    }

    /// Takes back what a failed ADD has left, with the pod's lock in hand.
    pub(crate) async fn undo(self: &Arc<Self>, pod: &PodId, guard: OwnedMutexGuard<()>) -> Result<(), Error> {
        let Some(worker) = Worker::new(self, pod) else { return Ok(()) };
        let task = tokio::spawn(worker.work_with(guard));
        self.wait_for(pod, task).await
    }

    async fn wait_for(&self, pod: &PodId, task: tokio::task::JoinHandle<()>) -> Result<(), Error> {
        let limit = self.limits.del;
        if let Ok(done) = timeout(limit, task).await {
            return done.map_err(|_| Error::Lost("DEL"));
        }
        if let Some(debt) = self.state().debt(pod) {
            debt.wait_out();
        }
        let waited_s = limit.as_secs();
        tracing::warn!(pod_sandbox_id = %pod, waited_s, "DEL of the pod's network takes long: nobody waits for it any longer");
        Ok(())
    }

    async fn try_del(&self, pod: &PodId) {
        let Some(begun) = self.state().begin(pod) else { return };
        if begun.is_news {
            self.note(begun.record.clone()).await;
        }
        match self.take_back(&begun).await {
            Ok(()) if begun.tries > 0 => {
                tracing::info!(pod_sandbox_id = %pod, tries = begun.tries + 1, "the network that was owed is taken back");
            }
            Ok(()) => {}
            Err(error) => self.owe_on(pod, &error),
        }
    }

    /// A try has failed: another follows.
    pub(crate) fn owe_on(&self, pod: &PodId, error: &Error) {
        let text = chain(error);
        let is_news = self.state().failed(pod, &text);
        let told = "the pod's network could not be taken back: it is owed, and tried again until it is";
        if is_news {
            tracing::warn!(pod_sandbox_id = %pod, error = text, "{told}");
        } else {
            tracing::debug!(pod_sandbox_id = %pod, error = text, "{told}");
        }
        self.owed.notify_one();
    }

    /// Writes a record that only a restart would want: without it DEL is made once more then. No disk keeps a pod.
    async fn note(&self, record: Record) {
        let pod = record.pod.clone();
        if let Err(error) = self.save(record).await {
            tracing::warn!(pod_sandbox_id = %pod, error = chain(&error), "DEL goes on without a record of it");
        }
    }

    async fn take_back(&self, begun: &Begun) -> Result<(), Error> {
        match &begun.record.network {
            PodKind::Cni(cni) => self.take_back_cni(begun, cni).await,
            PodKind::Embedded { .. } => self.take_back_embedded(begun).await,
        }
    }

    async fn take_back_cni(&self, begun: &Begun, cni: &CniRecord) -> Result<(), Error> {
        let record = &begun.record;
        let pod = &record.pod;
        let is_over = record.boot_id != self.boot_id;
        if !record.unpinning {
            if begun.plugins_at_large && !is_over {
                self.cni.end_plugins(pod).await?;
            }
            {
                let _at_work = self.plugins.read().await;
                self.cni.del(record, cni, is_over).await?;
            }
            self.state().update(pod, |record| {
                record.ports.clear();
                record.unpinning = true;
            });
        }
        if let Err(error) = self.cni.unpin(cni).await {
            // Something may be mounted above its directory that lets no unmount through.
            let done = self.state().get(pod).filter(|_| !record.unpinning).cloned();
            if let Some(done) = done {
                self.note(done).await;
            }
            return Err(error);
        }
        self.release(pod).await
    }

    async fn take_back_embedded(&self, begun: &Begun) -> Result<(), Error> {
        let pod = &begun.record.pod;
        let lingers = self.embedded.disconnect(begun.record.clone(), begun.is_undo).await?;
        self.state().update(pod, |record| record.ports.clear());
        if !lingers {
            return self.release(pod).await;
        }
        self.state().linger(pod);
        self.reaper.notify_one();
        Ok(())
    }
}
