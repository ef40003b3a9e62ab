//! GC: after a start the plugins hear which pods there are, and take back what they keep for others (CNI
//! specification 1.1, section 2): addresses of pods whose records were lost.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use holdfast_model::{PodId, chain};
use tokio::time::sleep;

use crate::{
    Error, Mode,
    cni::conf::ConfList,
    network::Inner,
    record::{PodKind, Record},
};

/// Limit of one plugin: ADD and DEL wait meanwhile.
const LIMIT: Duration = Duration::from_secs(10);
/// Pause before the next look whether no plugin is at work.
const PAUSE: Duration = Duration::from_secs(5);

/// Calls GC once, as soon as no ADD and no DEL is under way.
pub(crate) fn spawn(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        while !run(&weak).await {
            sleep(PAUSE).await;
        }
    });
}

/// Whether that is over.
async fn run(inner: &Weak<Inner>) -> bool {
    let Some(inner) = inner.upgrade() else { return true };
    if inner.chooser.mode() == Mode::Embedded {
        return true;
    }
    // A configuration that comes later, or is mended later, has no pods of an earlier agent.
    let Ok(Some(list)) = inner.cni.list().await else { return true };
    // Never queued for: the next ADD would wait behind a DEL that hangs.
    let Ok(_alone) = inner.plugins.try_write() else { return false };
    match inner.collect(&list).await {
        Ok(()) => tracing::debug!(network = list.name, "GC of the CNI network"),
        Err(error) => {
            tracing::warn!(network = list.name, error = chain(&error), "could not run GC of the CNI network");
        }
    }
    true
}

impl Inner {
    async fn collect(&self, list: &ConfList) -> Result<(), Error> {
        match self.attached(list) {
            Some(valid) => self.cni.gc(list, &valid, LIMIT).await,
            None => Ok(()),
        }
    }

    /// Pods that have something of a network, or whose DEL is owed. `None`: there is a record that cannot be read, which says
    /// nothing of what its pod has.
    fn attached(&self, list: &ConfList) -> Option<Vec<PodId>> {
        let is_on = |record: &&Record| match &record.network {
            PodKind::Cni(cni) => cni.conf.get("name").and_then(|name| name.as_str()) == Some(&list.name),
            PodKind::Embedded { .. } => false,
        };
        let state = self.state();
        state.knows_all().then(|| state.records().filter(is_on).map(|record| record.pod.clone()).collect())
    }
}
