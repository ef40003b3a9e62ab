//! The image store: pull, unpack, import, list, remove.
#![allow(
    clippy::unused_async,
    unused_variables,
    missing_docs,
    dead_code,
    clippy::unused_self,
    unused_crate_dependencies
)]

mod config;
mod digest;
mod error;
mod unpack;

use std::collections::HashSet;
use std::sync::Arc;

pub use config::{ImportSource, Progress, StoreConfig, Usage};
pub use error::{Error, ErrorKind};
use holdfast_model::{Credentials, Image};

/// Called with the state of a pull.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

#[derive(Clone)]
pub struct Store;

impl Store {
    pub async fn open(config: StoreConfig) -> Result<Store, Error> {
        unimplemented!()
    }
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        progress: Option<ProgressFn>,
    ) -> Result<Arc<Image>, Error> {
        unimplemented!()
    }
    pub fn list(&self) -> Vec<Arc<Image>> {
        unimplemented!()
    }
    pub fn get(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        unimplemented!()
    }
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn import(&self, source: ImportSource, name: Option<String>) -> Result<Vec<Arc<Image>>, Error> {
        unimplemented!()
    }
    pub async fn tag(&self, image_id: &str, reference: &str) -> Result<Arc<Image>, Error> {
        unimplemented!()
    }
    pub async fn lease(&self, image_id: &str, owner: &str) -> Result<Arc<Image>, Error> {
        unimplemented!()
    }
    pub async fn release(&self, owner: &str) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn retain_leases(&self, owners: &HashSet<String>) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn usage(&self) -> Result<Usage, Error> {
        unimplemented!()
    }
}
