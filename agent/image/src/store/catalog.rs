//! The one place that changes what the store knows.
//!
//! A change is made on a copy of the records, written in one transaction, then shown to the readers. What no record
//! holds any more leaves its directory right behind that. Changes wait for each other as redb makes them do anyway; no
//! reader ever waits for them, and none of them waits for a network or for the removal of a tree.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::home::Home;
use super::model::Model;
use super::records::Records;
use super::snapshot::Snapshot;
use crate::Error;
use crate::digest::Digest;

/// Records, readers' view, and which layers are in the hands of a pull.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) home: Arc<Home>,
    records: Mutex<Records>,
    snapshot: RwLock<Arc<Snapshot>>,
    pins: Mutex<Pins>,
}

#[derive(Debug, Default)]
struct Pins {
    held: HashMap<Digest, usize>,
    /// Layers that are being removed at this moment.
    going: HashSet<Digest>,
}

impl Catalog {
    pub(super) fn new(home: Arc<Home>, records: Records, model: Model) -> Self {
        let snapshot = RwLock::new(Arc::new(Snapshot::new(model, &home)));
        Self { home, records: Mutex::new(records), snapshot, pins: Mutex::default() }
    }

    /// The state after the last change.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a change, all of it or nothing, and returns what `change` does with the state after it. `change` gets the
    /// records to edit and the state before, which no other change can replace meanwhile. It may also move new things to
    /// their final names; if it or the commit fails they are taken away again. Blocking.
    pub(crate) fn edit<T>(
        &self,
        change: impl FnOnce(&mut Model, &Snapshot) -> Result<T, Error>,
    ) -> Result<(T, Arc<Snapshot>), Error> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let mut after = before.model.clone();
        let result = change(&mut after, &before).and_then(|value| {
            self.prune(&mut after);
            if after != before.model {
                records.commit(&before.model, &after)?;
            }
            Ok(value)
        });
        let result = match result {
            Ok(value) if after == before.model => Ok((value, before)),
            Ok(value) => {
                let snapshot = Arc::new(Snapshot::new(after, &self.home));
                *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
                self.take_away(&before.model, &snapshot.model);
                Ok((value, snapshot))
            }
            Err(error) => {
                self.take_away(&after, &before.model);
                Err(error)
            }
        };
        self.pins().going.clear();
        result
    }

    fn prune(&self, model: &mut Model) {
        let mut pins = self.pins();
        let before: HashSet<Digest> = model.layers.keys().cloned().collect();
        model.prune(|diff_id| pins.held.contains_key(diff_id));
        pins.going = before.into_iter().filter(|diff_id| !model.layers.contains_key(diff_id)).collect();
    }

    /// Moves what `more` has and `less` has not into the trash.
    fn take_away(&self, more: &Model, less: &Model) {
        let mut directories = Vec::new();
        for diff_id in more.layers.keys().filter(|diff_id| !less.layers.contains_key(*diff_id)) {
            directories.push((self.home.layers.as_fd(), diff_id));
        }
        for (id, image) in &more.images {
            let stays = less.images.get(id).is_some_and(|image| image.directories.is_some());
            if image.directories.is_some() && !stays {
                directories.push((self.home.directories.as_fd(), id));
            }
        }
        let kept = less.blobs();
        for blob in more.blobs().into_iter().filter(|blob| !kept.contains(blob)) {
            directories.push((self.home.blobs.as_fd(), blob));
        }
        for (directory, digest) in directories {
            if let Err(error) = self.home.throw_away(directory, digest.hex()) {
                tracing::warn!(%digest, error = &error as &dyn std::error::Error,
                    "left behind in the image store until the next start");
            }
        }
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a layer is there to stay; only a layer that the caller has pinned is.
    pub(crate) fn is_recorded(&self, diff_id: &Digest) -> bool {
        let pins = self.pins();
        self.snapshot().model.layers.contains_key(diff_id) && !pins.going.contains(diff_id)
    }

    /// Keeps layers from being removed, and says which of them the records have.
    pub(crate) fn pin(self: &Arc<Self>, diff_ids: Vec<Digest>) -> Pinned {
        let mut pins = self.pins();
        for diff_id in &diff_ids {
            *pins.held.entry(diff_id.clone()).or_default() += 1;
        }
        // Under the same lock: a change that has not seen our pins is still at work, or visible in the snapshot.
        let snapshot = self.snapshot();
        let recorded = |diff_id: &&Digest| {
            snapshot.model.layers.contains_key(*diff_id) && !pins.going.contains(*diff_id)
        };
        let recorded = diff_ids.iter().filter(recorded).cloned().collect();
        drop(pins);
        Pinned { catalog: Arc::clone(self), diff_ids, recorded }
    }
}

/// Layers that stay while this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    catalog: Arc<Catalog>,
    diff_ids: Vec<Digest>,
    recorded: HashSet<Digest>,
}

impl Pinned {
    /// Whether the layer was there when it was pinned.
    pub(crate) fn is_recorded(&self, diff_id: &Digest) -> bool {
        self.recorded.contains(diff_id)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.catalog.pins();
        for diff_id in &self.diff_ids {
            if let Some(held) = pins.held.get_mut(diff_id) {
                *held -= 1;
                if *held == 0 {
                    pins.held.remove(diff_id);
                }
            }
        }
    }
}
