//! The image store: pull, unpack, import, list, remove.
//!
//! [`Store`] is all that others see. Below it, `registry` speaks the distribution protocol, `unpack` turns a blob into a
//! directory, `pull` and `import` gather the layers of an image, and `store` knows what is on disk. The order of a pull is
//! what makes it safe: everything is made in a private work directory, checked against both digests, synced, then given
//! its name and its record in one step. Whatever ends before that step leaves nothing behind.

mod blocking;
mod config;
mod digest;
mod error;
mod import;
mod manifest;
mod names;
mod pull;
mod reference;
mod registry;
mod store;
mod task;
mod unpack;

use std::sync::Arc;

use holdfast_model::{Credentials, Image};

pub use config::{Holders, ImportSource, Progress, RegistrySettings, StoreConfig, Usage};
pub use error::{Error, ErrorKind};
pub use names::{Names, names};

use crate::blocking::blocking;
use crate::pull::{Puller, Source};
use crate::reference::{Reference, Target};
use crate::store::{Catalog, id_of};

/// Called with the state of a pull; must not block.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// The images of a node. Clones are the same store; its files are let go with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    catalog: Arc<Catalog>,
    puller: Arc<Puller>,
}

impl Store {
    /// Opens the store, or makes it. What an interrupted pull has left is removed, unless one of the `holders` may use it; an
    /// image of which something is missing is dropped with a warning, and its next pull fetches just that. Records that
    /// cannot be read are left alone.
    pub async fn open(config: StoreConfig, holders: Holders) -> Result<Self, Error> {
        let object = format!("image store {}", config.root.display());
        let root = config.root;
        let catalog = blocking(&object, "its records", move || store::open(&root, holders)).await?;
        let puller = Puller::new(Arc::clone(&catalog), Source::new(config.registry));
        Ok(Self { catalog, puller: Arc::new(puller) })
    }

    /// Pulls that begin from now on follow `settings`, and trust the certificates that the system has now.
    pub fn reload(&self, settings: RegistrySettings) {
        self.puller.set_source(Source::new(settings));
    }

    /// Pulls an image by tag or digest. Layers that are here are not downloaded again, and pulls that want the same layer
    /// at the same time share one download. Dropping the future stops the pull and leaves nothing of it.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        progress: Option<ProgressFn>,
    ) -> Result<Arc<Image>, Error> {
        let parsed = Reference::parse(reference)?;
        let object = parsed.to_string();
        let pulled = task::run(&object, Arc::clone(&self.puller).pull(parsed, credentials, progress)).await;
        if pulled.is_err() {
            self.catalog.home.settle().await;
        }
        pulled
    }

    /// All images, sorted by id. No I/O.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.catalog.snapshot().images.clone()
    }

    /// An image by tag, digest, id (with or without `sha256:`) or a beginning of the id that no other image has; a name
    /// goes before a short id. An error only if `name` can be none of these. No I/O.
    pub fn get(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        self.catalog.snapshot().find(name)
    }

    /// Removes an image with all its names; success if there is none. If it is leased it disappears from the list, and its
    /// layers go with the last lease. Layers of other images stay.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.get(name)?;
        let name = name.to_owned();
        self.edit(&format!("image {name}"), move |catalog| {
            // Looked up again where no other change can come between.
            catalog.edit(|model, snapshot| {
                if let Some(image) = snapshot.find(&name)? {
                    model.remove(&id_of(&image)?);
                }
                Ok(())
            })?;
            Ok(())
        })
        .await
    }

    /// Imports the images of an OCI layout or of an archive, all or none. `name` is given to the image instead of its own
    /// names; an archive of several images cannot have one. Dropping the future stops the import.
    pub async fn import(&self, source: ImportSource, name: Option<String>) -> Result<Vec<Arc<Image>>, Error> {
        let name = name.map(|name| self::tag(&name)).transpose()?;
        let catalog = Arc::clone(&self.catalog);
        let imported = task::run_blocking("image archive", move |stop| {
            import::import(&catalog, source, name.as_ref(), stop)
        })
        .await;
        if imported.is_err() {
            self.catalog.home.settle().await;
        }
        imported
    }

    /// Gives an image a further tag, which another one may lose by that.
    pub async fn tag(&self, image_id: &str, reference: &str) -> Result<Arc<Image>, Error> {
        let reference = self::tag(reference)?.to_string();
        let name = image_id.to_owned();
        self.edit(&format!("image {name}"), move |catalog| {
            let (id, snapshot) = catalog.edit(|model, snapshot| {
                let image = snapshot.find(&name)?.ok_or(Error::NoSuchImage { name: name.clone() })?;
                let id = id_of(&image)?;
                model.references.insert(reference, id.clone());
                Ok(id)
            })?;
            snapshot.by_id(&id).ok_or(Error::NoSuchImage { name })
        })
        .await
    }

    /// Keeps the layers of an image until `owner` releases them. An owner may hold several images. In memory, and so at
    /// once: whoever opens the store the next time has to say who holds what.
    pub fn lease(&self, image_id: &str, owner: &str) -> Result<Arc<Image>, Error> {
        self.catalog.lease(image_id, owner)
    }

    /// Ends all leases of an owner. What was kept for them alone is removed in the background; on a tokio runtime.
    pub fn release(&self, owner: &str) {
        if !self.catalog.release(owner) {
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = catalog.settle() {
                tracing::warn!(
                    error = holdfast_model::chain(&error),
                    "an image that is no longer used stays until the next change"
                );
            }
        });
    }

    /// What all layers and blobs take, by their records.
    #[expect(clippy::unused_async, reason = "the interface leaves room for a store that has to look")]
    pub async fn usage(&self) -> Result<Usage, Error> {
        Ok(self.catalog.snapshot().usage)
    }

    async fn edit<T: Send + 'static>(
        &self,
        object: &str,
        work: impl FnOnce(&Catalog) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let catalog = Arc::clone(&self.catalog);
        blocking(object, "the disk, which takes the records", move || work(&catalog)).await
    }
}

/// A reference that is not by digest: the digest of an image is not the user's to choose.
fn tag(text: &str) -> Result<Reference, Error> {
    let reference = Reference::parse(text)?;
    match reference.target {
        Target::Tag(_) => Ok(reference),
        Target::Digest(_) => {
            let reason = "a name with a tag is needed, not one with a digest".into();
            Err(Error::InvalidReference { reference: text.to_owned(), reason })
        }
    }
}
