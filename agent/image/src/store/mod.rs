//! What is on disk, and what is known of it.

mod catalog;
mod commit;
mod directories;
mod facts;
mod home;
mod janitor;
mod leases;
mod legacy;
mod model;
mod records;
mod recovery;
mod snapshot;
mod staged;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod stored_formats;
mod strays;

use std::path::Path;
use std::sync::Arc;

use holdfast_model::Image;

pub(crate) use catalog::Catalog;
pub(crate) use commit::{Layers, NewImage, commit};
pub(crate) use facts::{Facts, healthy};
pub(crate) use home::{Home, Scratch};
pub(crate) use staged::Staged;

use crate::Error;
use crate::config::Holders;
use crate::digest::Digest;

/// Opens the store below `root`. Blocking, on a tokio runtime.
pub(crate) fn open(root: &Path, holders: Holders) -> Result<Arc<Catalog>, Error> {
    recovery::open(Arc::new(Home::open(root)?), holders).map(Arc::new)
}

/// The id of an image as the store has it.
pub(crate) fn id_of(image: &Image) -> Result<Digest, Error> {
    image.id.parse().map_err(|reason: String| Error::corrupt(format!("image id {:?}", image.id), reason))
}
