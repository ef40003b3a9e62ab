//! Pins that could not go with their pods: tried again until they can, since nobody else would.
//!
//! A pin is busy when somebody has mounted something above its directory that lets no unmount through. Its pod is long removed then: the record alone
//! stays, in phase `Unpinning`, also over restarts.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use holdfast_model::{PodId, chain};

use crate::{
    network::Inner,
    record::{Phase, PodKind},
};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// The task ends when the last [`crate::Network`] is gone: it holds the state weakly, and is woken by [`Inner`]'s drop.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    let (weak, wake) = (Arc::downgrade(inner), inner.owed.clone());
    tokio::spawn(async move {
        let mut wait = FIRST_WAIT;
        while let Some(left) = try_all(&weak).await {
            if left == 0 {
                wake.notified().await;
                wait = FIRST_WAIT;
            } else if tokio::time::timeout(wait, wake.notified()).await.is_err() {
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    });
}

/// Number of pins that are left; `None` when there is no network any more.
async fn try_all(inner: &Weak<Inner>) -> Option<usize> {
    let inner = inner.upgrade()?;
    let mut left = 0;
    for pod in inner.owed_pins() {
        left += usize::from(!try_one(&inner, &pod).await);
    }
    Some(left)
}

async fn try_one(inner: &Inner, pod: &PodId) -> bool {
    let lock = inner.lock(pod);
    let _guard = lock.lock().await;
    let record = inner.state().get(pod).filter(|record| record.phase == Phase::Unpinning).cloned();
    let Some(PodKind::Cni(cni)) = record.map(|record| record.network) else { return true };
    if inner.cni.unpin(&cni).await.is_err() {
        return false;
    }
    match inner.release(pod).await {
        Ok(()) => {
            tracing::info!(pod_sandbox_id = %pod, "the pin of a removed pod's network namespace is gone");
        }
        Err(error) => {
            tracing::warn!(pod_sandbox_id = %pod, error = chain(&error), "record of a pin that is gone");
        }
    }
    true
}
