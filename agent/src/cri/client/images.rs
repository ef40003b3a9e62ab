//! Images: pull, import, tag, list, look up, remove.

use std::sync::Arc;

use holdfast_cri::{holdfast, v1};
use holdfast_model::{Credentials, Image};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, ClientError};

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are ready.
    pub layers_done: u64,
    /// Layers of the image.
    pub layers: u64,
    /// Compressed bytes downloaded.
    pub bytes: u64,
    /// Compressed bytes to download.
    pub total_bytes: u64,
}

/// Called now and then during a pull.
pub type ProgressFn = Arc<dyn Fn(PullProgress) + Send + Sync>;

impl Client {
    /// Pulls an image and says how far it is.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        progress: ProgressFn,
    ) -> Result<Image, ClientError> {
        let operation = || format!("pull {reference}");
        let request = holdfast::PullRequest {
            reference: reference.to_owned(),
            credentials: credentials
                .map(|given| holdfast::Credentials { username: given.username, password: given.password }),
        };
        let refused = || ClientError::refused(operation());
        let mut messages = self.own_images().pull(request).await.map_err(refused())?.into_inner();
        while let Some(message) = messages.message().await.map_err(refused())? {
            if let Some(state) = message.progress {
                let holdfast::Progress { layers_done, layers, bytes, total_bytes, .. } = state;
                progress(PullProgress { layers_done, layers, bytes, total_bytes });
            }
            if let Some(image) = message.image {
                return Ok(own_image(image));
            }
        }
        Err(ClientError::Incomplete { operation: operation(), what: "image" })
    }

    /// Imports an archive whose chunks come over a channel. `Ok(None)` is its end; a channel that closes without it
    /// gives the import up.
    pub async fn import(
        &self,
        name: Option<String>,
        mut chunks: mpsc::Receiver<Option<Vec<u8>>>,
    ) -> Result<Vec<Image>, ClientError> {
        let (messages, stream) = mpsc::channel(2);
        let feeder = tokio::spawn(async move {
            let mut name = name.unwrap_or_default();
            while let Some(chunk) = chunks.recv().await {
                let (chunk, end) = (chunk.clone().unwrap_or_default(), chunk.is_none());
                let message = holdfast::ImportRequest { name: std::mem::take(&mut name), chunk, end };
                if messages.send(message).await.is_err() {
                    return;
                }
            }
        });
        let answer = self.own_images().import(ReceiverStream::new(stream)).await;
        feeder.abort();
        let images = answer.map_err(ClientError::refused("import"))?.into_inner().images;
        Ok(images.into_iter().map(own_image).collect())
    }

    /// Gives an image a further name.
    pub async fn tag(&self, image: &str, reference: &str) -> Result<(), ClientError> {
        let request = holdfast::TagRequest { image: image.to_owned(), reference: reference.to_owned() };
        let answer = self.own_images().tag(request).await;
        answer.map(drop).map_err(ClientError::refused(format!("tag image {image}")))
    }

    /// All images.
    pub async fn list_images(&self) -> Result<Vec<Image>, ClientError> {
        let answer = self.images().list_images(v1::ListImagesRequest::default()).await;
        Ok(answer
            .map_err(ClientError::refused("list images"))?
            .into_inner()
            .images
            .into_iter()
            .map(image)
            .collect())
    }

    /// One image; `None` if it is not there.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, ClientError> {
        let request = v1::ImageStatusRequest { image: Some(spec(name)), verbose: false };
        let answer = self.images().image_status(request).await;
        let answer = answer.map_err(ClientError::refused(format!("look up image {name}")))?;
        Ok(answer.into_inner().image.map(image))
    }

    /// Removes an image with all its names. One that is not there is no error.
    pub async fn remove_image(&self, name: &str) -> Result<(), ClientError> {
        let request = v1::RemoveImageRequest { image: Some(spec(name)) };
        let answer = self.images().remove_image(request).await;
        answer.map(drop).map_err(ClientError::refused(format!("remove image {name}")))
    }
}

fn spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

fn image(image: v1::Image) -> Image {
    let user = image.uid.map_or(image.username, |uid| uid.value.to_string());
    Image {
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size_bytes: image.size,
        pinned: image.pinned,
        config: holdfast_model::ImageConfig { user, ..Default::default() },
        layers: Vec::new(),
    }
}

fn own_image(image: holdfast::Image) -> Image {
    let holdfast::Image { id, repo_tags, repo_digests, size_bytes } = image;
    Image { id, repo_tags, repo_digests, size_bytes, ..Image::default() }
}
