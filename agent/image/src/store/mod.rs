//! What is on disk, and what is known of it.

mod catalog;
mod commit;
mod directories;
mod facts;
mod home;
mod janitor;
mod model;
mod records;
mod recovery;
mod snapshot;
mod staged;

use std::path::Path;
use std::sync::Arc;

pub(crate) use catalog::Catalog;
pub(crate) use commit::{Layers, NewImage, commit};
pub(crate) use facts::{Facts, healthy};
pub(crate) use home::{Home, Scratch};
pub(crate) use staged::Staged;

use crate::Error;

/// Opens the store below `root`. Blocking, on a tokio runtime.
pub(crate) fn open(root: &Path) -> Result<Arc<Catalog>, Error> {
    recovery::open(Arc::new(Home::open(root)?)).map(Arc::new)
}
