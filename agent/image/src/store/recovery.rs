//! What the start of the store does with what it finds.
//!
//! Assumptions: a layer's directory was synced before it got its name, and got its name before its record; so a record
//! without a directory means a damaged disk or a hand that removed it, and a directory without a record means a process
//! that ended in between. The first makes its images incomplete: they are dropped, and the next pull fetches just what is
//! missing. The second is removed, unless the records themselves were lost: containers may run from those layers.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::catalog::Catalog;
use super::facts::healthy;
use super::home::{Home, names, read_file};
use super::model::{Blob, ImageRecord, Model};
use super::records::{Opened, Records};
use crate::Error;
use crate::digest::Digest;
use crate::manifest::{Config, LARGEST_CONFIG, LARGEST_MANIFEST, Manifest};
use crate::unpack::Footprint;

/// Opens the store at `home`. Blocking.
pub(super) fn open(home: Arc<Home>) -> Result<Catalog, Error> {
    let (mut records, before, mut model) = match Records::open(&home.records_path())? {
        Opened::Loaded(records, model) => (records, model.clone(), model),
        Opened::SetAside(records) => (records, Model::default(), rebuild(&home)),
    };
    // Only now: with the records we hold the lock that says that the work is nobody else's.
    home.clear()?;
    check(&home, &mut model);
    model.prune(|_| false);
    if model != before {
        records.commit(&before, &model)?;
    }
    remove_strays(&home, &model)?;
    Ok(Catalog::new(home, records, model))
}

/// Drops what is recorded and not there.
fn check(home: &Home, model: &mut Model) {
    let healthy = healthy(home, model.layers.keys().cloned());
    model.layers.retain(|diff_id, _| healthy.contains_key(diff_id));
    let damaged: Vec<Digest> = model
        .images
        .iter()
        .filter(|(id, image)| {
            let layers = image.diff_ids.iter().all(|diff_id| model.layers.contains_key(diff_id));
            !layers || (image.directories.is_some() && !home.directories_path(id).is_dir())
        })
        .map(|(id, _)| id.clone())
        .collect();
    for id in damaged {
        let names: Vec<&String> =
            model.references.iter().filter(|(_, image)| **image == id).map(|(name, _)| name).collect();
        tracing::warn!(%id, ?names, "image is incomplete and has to be pulled again");
        model.remove(&id);
        // What a container still uses of it stays; a pull makes a new one of it.
        if let Some(image) = model.images.get_mut(&id)
            && !home.directories_path(&id).is_dir()
        {
            image.directories = None;
        }
    }
    let images = &model.images;
    model.references.retain(|_, image| images.contains_key(image));
    model.leases.retain(|(_, image)| images.contains_key(image));
}

/// Removes what is there and not recorded.
fn remove_strays(home: &Home, model: &Model) -> Result<(), Error> {
    let layers = model.layers.keys().map(Digest::hex).collect();
    let directories = model.images.iter().filter(|(_, image)| image.directories.is_some());
    let directories = directories.map(|(id, _)| id.hex()).collect();
    let blobs = model.blobs().into_iter().map(Digest::hex).collect();
    remove_others(home, home.layers.as_fd(), &layers)?;
    remove_others(home, home.directories.as_fd(), &directories)?;
    remove_others(home, home.blobs.as_fd(), &blobs)
}

fn remove_others(home: &Home, directory: BorrowedFd<'_>, known: &HashSet<&str>) -> Result<(), Error> {
    let found = names(directory).map_err(|errno| Error::io("read a directory of the image store", errno))?;
    for name in found.iter().filter(|name| !known.contains(name.as_str())) {
        tracing::info!(name, "left over from an interrupted pull: removed");
        home.throw_away(directory, name)?;
    }
    Ok(())
}

/// What the directories say, after the records were lost: layers with their facts, and an image for each configuration
/// whose layers are all there. The names are lost; a pull, which then downloads no layer, brings them back.
fn rebuild(home: &Home) -> Model {
    let mut model = Model::default();
    for (diff_id, facts) in healthy(home, digests(home.layers.as_fd())) {
        model.layers.insert(diff_id, facts.record);
    }
    let mut manifests = Vec::new();
    for digest in digests(home.blobs.as_fd()) {
        let Ok(bytes) = read_file(home.blobs.as_fd(), digest.hex(), LARGEST_CONFIG.max(LARGEST_MANIFEST))
        else {
            continue;
        };
        let blob = Blob { size: bytes.len() as u64, digest: digest.clone() };
        if Digest::of(&bytes) != digest {
            tracing::warn!(%digest, "blob is damaged");
        } else if let Ok(config) = Config::parse("kept configuration", &bytes) {
            let complete = config.diff_ids.iter().all(|diff_id| model.layers.contains_key(diff_id));
            if complete {
                model.images.insert(digest, adopted(home, blob, config));
            }
        } else if let Ok(Manifest::Image(manifest)) = Manifest::parse("kept manifest", &bytes) {
            manifests.push((manifest.config.digest, blob));
        }
    }
    for (config, manifest) in manifests {
        if let Some(image) = model.images.get_mut(&config) {
            image.blobs.push(manifest);
        }
    }
    tracing::warn!(
        images = model.images.len(),
        layers = model.layers.len(),
        "taken over from the image store's disk"
    );
    model
}

fn adopted(home: &Home, blob: Blob, config: Config) -> ImageRecord {
    let directories = home.directories_path(&blob.digest).is_dir().then(Footprint::default);
    ImageRecord {
        diff_ids: config.diff_ids,
        blobs: vec![blob],
        directories,
        removed: false,
        config: config.image,
    }
}

fn digests(directory: BorrowedFd<'_>) -> BTreeSet<Digest> {
    let names = names(directory).unwrap_or_default();
    names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect()
}
