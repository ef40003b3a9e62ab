//! The one place that changes what the store knows.
//!
//! A change is made on a copy of what is known, put on disk, then shown to the readers. What nothing holds any more leaves
//! its directory right behind that. Changes wait for each other; no reader ever waits for them, and none of them waits for a
//! network or, unless the disk is full, for the removal of a tree. Leases are no change: they are in memory.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use holdfast_model::Image;

use super::home::{Home, unlink};
use super::leases::Leases;
use super::model::Model;
use super::records::Records;
use super::snapshot::Snapshot;
use super::strays;
use crate::Error;
use crate::digest::Digest;

/// Records, readers' view, and what is in the hands of pulls and containers.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) home: Arc<Home>,
    records: Mutex<Records>,
    snapshot: RwLock<Arc<Snapshot>>,
    holds: Mutex<Holds>,
}

/// What must not go; locked for moments only.
#[derive(Debug)]
struct Holds {
    leases: Leases,
    /// Layers in the hands of pulls.
    pinned: HashMap<Digest, usize>,
    going: Going,
}

/// What is being removed at this moment.
#[derive(Debug, Default)]
struct Going {
    images: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Catalog {
    pub(super) fn new(home: Arc<Home>, records: Records, model: Model, leases: Leases) -> Self {
        let snapshot = RwLock::new(Arc::new(Snapshot::new(model, &home)));
        let holds = Holds { leases, pinned: HashMap::new(), going: Going::default() };
        Self { home, records: Mutex::new(records), snapshot, holds: Mutex::new(holds) }
    }

    /// The state after the last change.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a change, all of it or nothing, and returns what `change` does with the state after it. `change` gets the
    /// model to edit and the state before, which no other change can replace meanwhile. It may also move new things to
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
        self.holds().going = Going::default();
        result
    }

    /// Drops what nothing holds, and removes what is on disk and not known as long as nobody may use it unknown to us.
    /// Blocking.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        self.edit(|_, _| Ok(()))?;
        // No change can give anything a name meanwhile.
        let _records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = self.holds().leases.unknown().clone();
        if unknown.is_empty() {
            return strays::remove(&self.home, &self.snapshot().model);
        }
        tracing::warn!(containers = ?unknown,
            "nobody knows which images these containers use: as long as they are there no layer is removed");
        Ok(())
    }

    fn prune(&self, model: &mut Model) {
        let mut holds = self.holds();
        let before: (HashSet<Digest>, HashSet<Digest>) =
            (model.images.keys().cloned().collect(), model.layers.keys().cloned().collect());
        let Holds { leases, pinned, .. } = &*holds;
        let keep_all = !leases.unknown().is_empty();
        model.prune(|image| leases.hold(image), |diff_id| keep_all || pinned.contains_key(diff_id));
        let (images, layers) = before;
        holds.going = Going {
            images: images.into_iter().filter(|id| !model.images.contains_key(id)).collect(),
            layers: layers.into_iter().filter(|diff_id| !model.layers.contains_key(diff_id)).collect(),
        };
    }

    /// Takes what `more` has and `less` has not from the disk. Files first: they make room for what has to be moved.
    fn take_away(&self, more: &Model, less: &Model) {
        let told = |digest: &Digest, done: Result<(), Error>| {
            if let Err(error) = done {
                tracing::warn!(%digest, error = holdfast_model::chain(&error),
                    "left behind in the image store until the next start");
            }
        };
        let kept = less.blobs();
        for blob in more.blobs().into_iter().filter(|blob| !kept.contains(blob)) {
            told(blob, unlink(&self.home.blobs, blob.hex()));
        }
        for (id, image) in &more.images {
            let stays = less.images.get(id).is_some_and(|image| image.directories.is_some());
            if image.directories.is_some() && !stays {
                told(id, self.home.throw_away(self.home.directories.as_fd(), id.hex()));
            }
        }
        for diff_id in more.layers.keys().filter(|diff_id| !less.layers.contains_key(*diff_id)) {
            told(diff_id, self.home.throw_away(self.home.layers.as_fd(), diff_id.hex()));
        }
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an image until `owner` releases it. No I/O.
    pub(crate) fn lease(&self, name: &str, owner: &str) -> Result<Arc<Image>, Error> {
        let mut holds = self.holds();
        // Under the same lock: a change that has not seen this lease has said what is going, or is visible.
        let image = self.snapshot().find(name)?;
        let no_such = || Error::NoSuchImage { name: name.to_owned() };
        let image = image.ok_or_else(no_such)?;
        let id = super::id_of(&image)?;
        if holds.going.images.contains(&id) {
            return Err(no_such());
        }
        holds.leases.add(owner, id);
        Ok(image)
    }

    /// Ends all leases of an owner. `true`: something may have been kept for them alone. No I/O.
    pub(crate) fn release(&self, owner: &str) -> bool {
        let mut holds = self.holds();
        let doubted = !holds.leases.unknown().is_empty();
        let released = holds.leases.release(owner);
        let settled = doubted && holds.leases.unknown().is_empty();
        settled || released && self.snapshot().model.images.values().any(|image| image.removed)
    }

    /// Whether a layer is there to stay; only a layer that the caller has pinned is.
    pub(crate) fn is_recorded(&self, diff_id: &Digest) -> bool {
        let holds = self.holds();
        self.snapshot().model.layers.contains_key(diff_id) && !holds.going.layers.contains(diff_id)
    }

    /// Keeps layers from being removed, and says which of them the records have.
    pub(crate) fn pin(self: &Arc<Self>, diff_ids: Vec<Digest>) -> Pinned {
        let mut holds = self.holds();
        for diff_id in &diff_ids {
            *holds.pinned.entry(diff_id.clone()).or_default() += 1;
        }
        // Under the same lock: a change that has not seen our pins is still at work, or visible in the snapshot.
        let snapshot = self.snapshot();
        let recorded = |diff_id: &&Digest| {
            snapshot.model.layers.contains_key(*diff_id) && !holds.going.layers.contains(*diff_id)
        };
        let recorded = diff_ids.iter().filter(recorded).cloned().collect();
        drop(holds);
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
        let pinned = &mut self.catalog.holds().pinned;
        for diff_id in &self.diff_ids {
            if let Some(count) = pinned.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(diff_id);
                }
            }
        }
    }
}
