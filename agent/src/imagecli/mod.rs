//! `holdfast image`: through the agent that listens, or, if none does, with the store itself under the agent's lock.

mod archive;
mod show;

use std::{io, path::Path, path::PathBuf, sync::Arc};

use holdfast_image::{ImportSource, Progress, Store};
use holdfast_model::{Credentials, Image};

use crate::{
    cli::{ImageOutput, print},
    config::Config,
    cri::client::{Client, ClientError, PullProgress},
    runtime::{Lock, StartError, open_images},
};

pub use show::size;

/// Why a command on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageCliError {
    /// An agent is there, and it says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No agent is there, and the store cannot be had.
    #[error("open the image store")]
    Open(#[from] StartError),
    /// The store says no.
    #[error("{operation}")]
    Store {
        /// What was asked for.
        operation: String,
        /// Why not.
        source: holdfast_image::Error,
    },
    /// stdout is closed or full.
    #[error("print the result")]
    Print(#[from] io::Error),
    /// The archive cannot be read.
    #[error("read {path:?}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where the images are.
enum Images {
    Agent(Client),
    Own { store: Store, _lock: Lock },
}

impl Images {
    async fn open(config: &Config) -> Result<Self, ImageCliError> {
        if let Some(client) = Client::connect(&config.listen_path()).await? {
            return Ok(Self::Agent(client));
        }
        let (store, lock) = open_images(config).await?;
        Ok(Self::Own { store, _lock: lock })
    }
}

fn failed(operation: String) -> impl FnOnce(holdfast_image::Error) -> ImageCliError {
    move |source| ImageCliError::Store { operation, source }
}

/// `holdfast image pull`.
pub async fn pull(
    config: &Config,
    reference: &str,
    credentials: Option<Credentials>,
) -> Result<(), ImageCliError> {
    let meter = Arc::new(show::Meter::new(reference));
    let image = match Images::open(config).await? {
        Images::Agent(client) => {
            let meter = meter.clone();
            client.pull(reference, credentials, Arc::new(move |state| meter.show(&state))).await?
        }
        Images::Own { store, _lock } => {
            let meter = meter.clone();
            let tell = Arc::new(move |state: Progress| meter.show(&progress(&state)));
            let pulled = store.pull(reference, credentials, Some(tell)).await;
            Image::clone(&*pulled.map_err(failed(format!("pull {reference}")))?)
        }
    };
    meter.end();
    Ok(print(&format!("{}\n", image.id))?)
}

fn progress(state: &Progress) -> PullProgress {
    PullProgress {
        layers_done: state.layers_done as u64,
        layers: state.layers as u64,
        bytes: state.bytes,
        total_bytes: state.total_bytes,
    }
}

/// `holdfast image import`.
pub async fn import(config: &Config, source: &Path, name: Option<String>) -> Result<(), ImageCliError> {
    let images = match Images::open(config).await? {
        Images::Agent(client) => archive::send(&client, source, name).await?,
        Images::Own { store, _lock } => {
            let from = if source == Path::new("-") {
                ImportSource::Reader(Box::new(io::stdin()))
            } else {
                ImportSource::Path(source.to_owned())
            };
            let imported = store.import(from, name).await;
            let imported = imported.map_err(failed(format!("import {}", source.display())))?;
            imported.iter().map(|image| Image::clone(image)).collect()
        }
    };
    Ok(print(&show::imported(&images))?)
}

/// `holdfast image tag`.
pub async fn tag(config: &Config, image: &str, reference: &str) -> Result<(), ImageCliError> {
    match Images::open(config).await? {
        Images::Agent(client) => client.tag(image, reference).await?,
        Images::Own { store, _lock } => {
            store.tag(image, reference).await.map_err(failed(format!("tag image {image}")))?;
        }
    }
    Ok(())
}

/// `holdfast image list`.
pub async fn list(config: &Config, output: ImageOutput) -> Result<(), ImageCliError> {
    let mut images = match Images::open(config).await? {
        Images::Agent(client) => client.list_images().await?,
        Images::Own { store, _lock } => store.list().iter().map(|image| Image::clone(image)).collect(),
    };
    images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
    Ok(print(&match output {
        ImageOutput::Table => show::table(&images),
        ImageOutput::Json => show::json(&images),
    })?)
}

/// `holdfast image remove`: all that can be removed is; the first error is returned at the end.
pub async fn remove(config: &Config, references: &[String]) -> Result<(), ImageCliError> {
    let images = Images::open(config).await?;
    let mut first_error = None;
    for reference in references {
        let removed = match &images {
            Images::Agent(client) => client.remove_image(reference).await.map_err(ImageCliError::from),
            Images::Own { store, .. } => {
                store.remove(reference).await.map_err(failed(format!("remove image {reference}")))
            }
        };
        if let Err(error) = removed {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}
