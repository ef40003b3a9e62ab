//! The last step of a pull or an import: what was gathered becomes images.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use holdfast_model::{Image, ImageConfig};

use super::catalog::{Catalog, Pinned};
use super::directories::{Layer, Plan};
use super::facts::Facts;
use super::home::Scratch;
use super::model::{Blob, ImageRecord, Model, stack};
use super::staged::Staged;
use crate::Error;
use crate::blocking::failpoint;
use crate::digest::Digest;
use crate::unpack::{Footprint, open_directory};

/// An image whose layers have been gathered.
pub(crate) struct NewImage {
    /// Digest of the configuration.
    pub id: Digest,
    pub config: ImageConfig,
    pub diff_ids: Vec<Digest>,
    /// Configuration and, if there is one, manifest.
    pub blobs: Vec<Vec<u8>>,
    /// Complete references.
    pub names: Vec<String>,
}

/// Layers of the images, by diff_id.
pub(crate) struct Layers {
    /// Those that were there, with what is known of them.
    present: HashMap<Digest, Facts>,
    staged: HashMap<Digest, Arc<Staged>>,
    /// Keeps the present ones from being removed.
    _pinned: Pinned,
}

impl Layers {
    /// `pinned`: has to hold the layers that are present.
    pub(crate) fn new(
        present: HashMap<Digest, Facts>,
        staged: HashMap<Digest, Arc<Staged>>,
        pinned: Pinned,
    ) -> Self {
        Self { present, staged, _pinned: pinned }
    }
}

/// An image with all that belongs to it in work directories.
struct Prepared {
    image: NewImage,
    /// Each blob in a file named after its digest.
    blobs: Scratch,
    /// Directories that have to stand on top of its layers, if it needs them and has none yet.
    directories: Option<(Scratch, Footprint)>,
}

/// Records the images, all of them or none. Blocking.
pub(crate) fn commit(
    catalog: &Catalog,
    images: Vec<NewImage>,
    layers: &Layers,
) -> Result<Vec<Arc<Image>>, Error> {
    let ids: Vec<Digest> = images.iter().map(|image| image.id.clone()).collect();
    let mut prepared: Vec<Prepared> =
        images.into_iter().map(|image| prepare(catalog, image, layers)).collect::<Result<_, _>>()?;
    catalog.home.sync()?;
    let ((), snapshot) = catalog.edit(|model, _| {
        for image in &mut prepared {
            show(catalog, model, image, layers)?;
        }
        catalog.home.sync_names()
    })?;
    Ok(ids.iter().filter_map(|id| snapshot.by_id(id)).collect())
}

fn prepare(catalog: &Catalog, image: NewImage, layers: &Layers) -> Result<Prepared, Error> {
    let blobs = Scratch::new(&catalog.home)?;
    for bytes in &image.blobs {
        blobs.write(Digest::of(bytes).hex(), bytes)?;
    }
    let has_directories = catalog.snapshot().model.images.get(&image.id).is_some_and(|record| {
        record.directories.is_some() && catalog.home.directories_path(&image.id).is_dir()
    });
    let directories = if has_directories { None } else { directories(catalog, &image, layers)? };
    Ok(Prepared { image, blobs, directories })
}

fn directories(
    catalog: &Catalog,
    image: &NewImage,
    layers: &Layers,
) -> Result<Option<(Scratch, Footprint)>, Error> {
    let mut opened: Vec<(Files<'_>, &Facts)> = Vec::new();
    for diff_id in stack(&image.diff_ids) {
        if let Some(staged) = layers.staged.get(diff_id) {
            opened.push((Files::Staged(staged.files()), &staged.facts));
        } else if let Some(facts) = layers.present.get(diff_id) {
            let path = format!("{}/fs", diff_id.hex());
            let files = open_directory(catalog.home.layers.as_fd(), path.as_bytes())
                .map_err(|errno| Error::io(format!("open layer {diff_id}"), errno))?;
            opened.push((Files::Present(files), facts));
        } else {
            return Err(lost(&image.id, diff_id));
        }
    }
    let stacked: Vec<Layer<'_>> = opened
        .iter()
        .map(|(files, facts)| Layer { files: files.as_fd(), implied: &facts.implied, hiding: &facts.hiding })
        .collect();
    let plan = Plan::new(&format!("image {}", image.id), &stacked)?;
    if plan.is_empty() {
        return Ok(None);
    }
    let scratch = Scratch::new(&catalog.home)?;
    let footprint = plan.make(scratch.make("fs")?.as_fd())?;
    Ok(Some((scratch, footprint)))
}

enum Files<'a> {
    Staged(BorrowedFd<'a>),
    Present(OwnedFd),
}

impl AsFd for Files<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Staged(files) => *files,
            Self::Present(files) => files.as_fd(),
        }
    }
}

/// Gives all parts of an image their names and enters it into the records.
fn show(catalog: &Catalog, model: &mut Model, new: &mut Prepared, layers: &Layers) -> Result<(), Error> {
    let home = &catalog.home;
    let image = &new.image;
    for diff_id in &image.diff_ids {
        let staged = layers.staged.get(diff_id);
        match (model.layers.contains_key(diff_id), staged) {
            (true, None) => {}
            // Another pull was faster, unless the record is of a layer that has been found damaged.
            (true, Some(_)) if Facts::read(home, diff_id).is_ok() => {}
            (_, Some(staged)) => {
                model.layers.insert(diff_id.clone(), staged.facts.record.clone());
                failpoint("image.layer.rename")?;
                staged.publish(home)?;
            }
            (false, None) => return Err(lost(&image.id, diff_id)),
        }
    }
    let known = model.images.get(&image.id).and_then(|known| known.directories);
    let directories = new.directories.as_ref().map(|(_, footprint)| *footprint).or(known);
    let blobs = image.blobs.iter().map(|bytes| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 });
    let record = ImageRecord {
        diff_ids: image.diff_ids.clone(),
        blobs: blobs.collect(),
        directories,
        removed: false,
        config: image.config.clone(),
    };
    if let Some((scratch, _)) = &mut new.directories
        && (known.is_none() || !home.directories_path(&image.id).is_dir())
    {
        failpoint("image.directories.rename")?;
        scratch.publish(home.directories.as_fd(), image.id.hex())?;
    }
    // The configuration last: without records it is what says that an image is complete.
    for blob in record.blobs.iter().rev() {
        failpoint("image.blob.rename")?;
        new.blobs.publish_file(blob.digest.hex(), home.blobs.as_fd(), blob.digest.hex())?;
    }
    model.images.insert(image.id.clone(), record);
    for name in &image.names {
        model.references.insert(name.clone(), image.id.clone());
    }
    Ok(())
}

fn lost(image: &Digest, diff_id: &Digest) -> Error {
    let operation = format!("put image {image} together: layer {diff_id} was removed meanwhile");
    Error::io(operation, std::io::Error::from(std::io::ErrorKind::NotFound))
}
