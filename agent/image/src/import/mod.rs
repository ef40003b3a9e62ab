//! Import: images from a directory or an archive, checked like those of a registry.

mod bundle;
mod docker;
mod layout;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_model::Image;

use self::bundle::Bundle;
use crate::Error;
use crate::config::ImportSource;
use crate::digest::Digest;
use crate::error::brief;
use crate::manifest::{Config, Descriptor};
use crate::reference::Reference;
use crate::store::{Catalog, Layers, NewImage, Staged, commit, healthy};

/// An image as an archive describes it.
struct Candidate {
    /// Digest of the configuration.
    id: Digest,
    config: Config,
    /// Configuration and, if there is one, manifest.
    blobs: Vec<Vec<u8>>,
    layers: Vec<LayerFile>,
    names: Vec<String>,
}

/// Where a layer lies in the archive, and what its blob has to be if the archive says that.
struct LayerFile {
    name: String,
    blob: Option<Descriptor>,
}

/// Imports all images of `source`, or none. `name`: for the only one of them, instead of its own names. Blocking, until
/// `stop` is set; the source has to put a limit to its own waits.
pub(crate) fn import(
    catalog: &Arc<Catalog>,
    source: ImportSource,
    name: Option<&Reference>,
    stop: &AtomicBool,
) -> Result<Vec<Arc<Image>>, Error> {
    let bundle = Bundle::open(source, &catalog.home, stop)?;
    let candidates = candidates(&bundle)?;
    let (mut images, layers) = describe(candidates);
    if let Some(name) = name {
        let [image] = images.as_mut_slice() else {
            let reason = format!("it holds {} images, and a name fits only one", images.len());
            return Err(Error::unsupported("image archive", reason));
        };
        image.names = vec![name.to_string()];
    }
    let layers = gather(catalog, &bundle, &layers, stop)?;
    commit(catalog, images, &layers)
}

fn candidates(bundle: &Bundle) -> Result<Vec<Candidate>, Error> {
    let mut found = layout::images(bundle)?;
    if found.as_ref().is_none_or(Vec::is_empty) {
        found = docker::images(bundle)?.or(found);
    }
    match found {
        Some(images) if !images.is_empty() => Ok(images),
        Some(_) => Err(Error::corrupt("image archive", "it holds no image")),
        None => {
            let reason =
                "not an image archive: it has neither index.json (OCI) nor manifest.json (docker save)";
            Err(Error::corrupt("image archive", reason))
        }
    }
}

/// The images, each once with all its names, and where to find their layers.
fn describe(candidates: Vec<Candidate>) -> (Vec<NewImage>, BTreeMap<Digest, LayerFile>) {
    let mut images: Vec<NewImage> = Vec::new();
    let mut layers = BTreeMap::new();
    for Candidate { id, config, blobs, layers: files, names } in candidates {
        if let Some(known) = images.iter_mut().find(|image| image.id == id) {
            known.names.extend(names);
            continue;
        }
        layers.extend(config.diff_ids.iter().cloned().zip(files));
        images.push(NewImage { id, config: config.image, diff_ids: config.diff_ids, blobs, names });
    }
    (images, layers)
}

/// Unpacks the layers that are not there yet.
fn gather(
    catalog: &Arc<Catalog>,
    bundle: &Bundle,
    files: &BTreeMap<Digest, LayerFile>,
    stop: &AtomicBool,
) -> Result<Layers, Error> {
    let pinned = catalog.pin(files.keys().cloned().collect());
    let recorded = files.keys().filter(|diff_id| pinned.is_recorded(diff_id)).cloned();
    let present = healthy(&catalog.home, recorded)?;
    let mut staged = HashMap::new();
    for (diff_id, file) in files.iter().filter(|(diff_id, _)| !present.contains_key(*diff_id)) {
        let object = format!("layer {} of the archive", brief(&file.name));
        let Some((source, size)) = bundle.file(&file.name)? else {
            return Err(Error::corrupt(object, "the archive does not hold it"));
        };
        if let Some(blob) = file.blob.as_ref().filter(|blob| blob.size != size) {
            return Err(Error::SizeMismatch { object, expected: blob.size, actual: size });
        }
        let layer = Staged::unpack(&catalog.home, source, file.blob.as_ref(), diff_id, &object, stop)?;
        staged.insert(diff_id.clone(), Arc::new(layer));
    }
    Ok(Layers::new(present, staged, pinned))
}
