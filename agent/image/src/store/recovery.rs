//! What the start of the store does with what it finds.
//!
//! Assumptions: a layer's directory was synced before it got its name, and all parts of an image got their names before
//! its record did. So a layer that is not as it should be means a damaged disk or a hand that removed it: its images are
//! dropped, and the next pull fetches just what is missing. Parts without a record mean a process that ended in between:
//! they are removed, but for
//!
//! - what containers hold: an image that was removed under them has no record, and its configuration says which
//!   layers they are;
//! - everything that is complete, if the records are lost, not each of them removed;
//! - everything, while nobody knows what some container holds.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::catalog::Catalog;
use super::facts::all_layers;
use super::home::{Home, blames_content, digests, read_file};
use super::leases::Leases;
use super::legacy::{self, Legacy};
use super::model::{Blob, ImageRecord, Model};
use super::records::{Found, Records};
use crate::Error;
use crate::config::Holders;
use crate::digest::Digest;
use crate::manifest::{Config, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest};
use crate::unpack::Footprint;

/// Opens the store at `home`. Blocking.
pub(super) fn open(home: Arc<Home>, holders: Holders) -> Result<Catalog, Error> {
    home.clear();
    let (mut records, Found { images, references, unreadable }) = Records::load(Arc::clone(&home))?;
    let legacy = legacy::load(&home)?;
    let mut model = Model { layers: all_layers(&home)?, images, references };
    let mut before = model.clone();
    if let Legacy::Records(old) = &legacy {
        take_over(&home, &mut model, old);
    }
    let mut leases = Leases::new(holders);
    let lost = !records.are_whole() || matches!(legacy, Legacy::Unreadable);
    adopt(&home, &mut model, &mut leases, |id| lost || unreadable.contains(id))?;
    // What cannot be read is left as it is until there is something new to write.
    before.images.extend(model.images.iter().filter(|(id, _)| unreadable.contains(id)).map(cloned));
    check(&home, &mut model);
    if records.settle(&before, &model) {
        legacy::replace(&home, &legacy);
    }
    let catalog = Catalog::new(home, records, model, leases);
    if let Err(error) = catalog.settle() {
        tracing::warn!(error = holdfast_model::chain(&error), "clean-up of what was left in the image store");
    }
    Ok(catalog)
}

fn cloned((id, image): (&Digest, &ImageRecord)) -> (Digest, ImageRecord) {
    (id.clone(), image.clone())
}

/// An older program has been at work, now or between two of this one: what it says is so. What it does not know it may
/// have removed, with the configuration.
fn take_over(home: &Home, model: &mut Model, old: &Model) {
    model.images.retain(|id, _| old.images.contains_key(id) || home.has_blob(id));
    model.images.extend(old.images.iter().map(cloned));
    model.references.extend(old.references.iter().map(|(name, id)| (name.clone(), id.clone())));
    tracing::info!(images = old.images.len(), "taken over from the records of an older program");
}

/// Puts images together from their configurations: those that containers hold, and, without names, those that are `wanted`
/// and complete. Who holds an image that cannot be put together may hold any.
fn adopt(
    home: &Home,
    model: &mut Model,
    leases: &mut Leases,
    wanted: impl Fn(&Digest) -> bool,
) -> Result<(), Error> {
    let held: HashSet<Digest> = leases.pairs().into_iter().map(|(_, image)| image).collect();
    let blobs = digests(home.blobs.as_fd())?;
    if blobs.iter().any(|id| !model.images.contains_key(id) && (wanted(id) || held.contains(id))) {
        let kept = Kept::read(home, blobs)?;
        for (config, blob) in kept.configs {
            let id = blob.digest.clone();
            let is_complete = config.diff_ids.iter().all(|diff_id| model.layers.contains_key(diff_id));
            let shown = is_complete && wanted(&id);
            if !model.images.contains_key(&id) && (shown || held.contains(&id)) {
                tracing::info!(%id, "image put together from its configuration");
                let directories = footprint_of_directories(home, &id);
                let manifests = kept.manifests.iter().filter(|(config, _)| *config == id);
                let blobs = std::iter::once(blob).chain(manifests.map(|(_, blob)| blob.clone())).collect();
                let (diff_ids, config) = (config.diff_ids, config.image);
                let image = ImageRecord { diff_ids, blobs, directories, removed: !shown, config };
                model.images.insert(id, image);
            }
        }
    }
    for (owner, id) in leases.pairs().into_iter().filter(|(_, id)| !model.images.contains_key(id)) {
        tracing::warn!(owner, %id, "a container's image is not known, nor its configuration");
        leases.doubt(&owner);
    }
    Ok(())
}

/// What stands on top of an image's layers: nothing but directories.
fn footprint_of_directories(home: &Home, id: &Digest) -> Option<Footprint> {
    let path = home.directories_path(id);
    let inodes = path.is_dir().then(|| holdfast_tree::usage(&path).inodes + 1)?;
    Some(Footprint { bytes: 4096 * inodes, inodes })
}

/// What blobs are.
#[derive(Default)]
struct Kept {
    configs: Vec<(Config, Blob)>,
    /// With the configurations that they name.
    manifests: Vec<(Digest, Blob)>,
}

impl Kept {
    fn read(home: &Home, blobs: BTreeSet<Digest>) -> Result<Self, Error> {
        let mut kept = Self::default();
        for digest in blobs {
            let largest = LARGEST_CONFIG.max(LARGEST_MANIFEST);
            let bytes = match read_file(home.blobs.as_fd(), digest.hex(), largest) {
                Ok(bytes) if Digest::of(&bytes) == digest => bytes,
                Ok(_) => {
                    tracing::warn!(%digest, "blob is damaged");
                    continue;
                }
                Err(error) if blames_content(&error) => {
                    tracing::warn!(%digest, %error, "blob is damaged");
                    continue;
                }
                Err(source) => return Err(Error::Io { operation: format!("read blob {digest}"), source }),
            };
            let blob = Blob { size: bytes.len() as u64, digest };
            if let Ok(config) = Config::parse("kept configuration", &bytes) {
                kept.configs.push((config, blob));
            } else if let Ok(Manifest::Image(manifest)) = Manifest::parse("kept manifest", &bytes) {
                kept.manifests.push((manifest.config.digest, blob));
            }
        }
        Ok(kept)
    }
}

/// Drops images of which something is not there. What a container still uses of one stays; a pull makes a new one of it.
fn check(home: &Home, model: &mut Model) {
    for (id, image) in &mut model.images {
        let mut is_complete = image.diff_ids.iter().all(|diff_id| model.layers.contains_key(diff_id));
        if image.directories.is_some() && !home.directories_path(id).is_dir() {
            image.directories = None;
            is_complete = false;
        }
        if !is_complete && !image.removed {
            let names: Vec<&String> =
                model.references.iter().filter(|(_, image)| *image == id).map(|(name, _)| name).collect();
            tracing::warn!(%id, ?names, "image is incomplete and has to be pulled again");
            image.removed = true;
        }
    }
    let images = &model.images;
    model.references.retain(|_, id| images.get(id).is_some_and(|image| !image.removed));
}
