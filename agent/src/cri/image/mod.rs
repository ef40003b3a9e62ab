//! runtime.v1.ImageService.

mod fs_info;
mod pull_image;

use holdfast_cri::v1::{self, image_service_server::ImageService};
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::{convert::image_to_wire, runtime::streams, status};
use crate::runtime::{Error, Runtime};

/// Serves a [`Runtime`]'s image store over CRI.
#[derive(Debug, Clone)]
pub struct ImageServer {
    runtime: Runtime,
}

impl ImageServer {
    /// For that runtime's store.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime }
    }

    fn list(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted =
            filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|name| !name.is_empty());
        let images = match wanted {
            None => self.runtime.images().list(),
            Some(name) => self
                .runtime
                .images()
                .get(&name)
                .map_err(|source| failed("ListImages", format!("look up image {name:?}"), source))?
                .into_iter()
                .collect(),
        };
        Ok(images.iter().map(|image| image_to_wire(image)).collect())
    }
}

/// An error of the store, as an answer.
pub(super) fn failed(rpc: &'static str, operation: String, source: holdfast_image::Error) -> Status {
    status::status(rpc, &Error::Image { operation, source })
}

fn name_of(rpc: &'static str, spec: Option<v1::ImageSpec>) -> Result<String, Box<Status>> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() {
        return Err(Box::new(Status::invalid_argument(format!(
            "{rpc}: image.image: a reference or an id is needed"
        ))));
    }
    Ok(name)
}

#[tonic::async_trait]
impl ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let images = self.list(request.into_inner().filter)?;
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<streams::Chunks<v1::StreamImagesResponse>>, Status> {
        let images = self.list(request.into_inner().filter)?;
        Ok(Response::new(streams::chunks(images, |images| v1::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = name_of("ImageStatus", request.image).map_err(|status| *status)?;
        let image = self
            .runtime
            .images()
            .get(&name)
            .map_err(|source| failed("ImageStatus", format!("look up image {name:?}"), source))?;
        let info = match &image {
            Some(image) if request.verbose => {
                let info = serde_json::json!({ "config": image.config, "layers": image.layers });
                [("info".to_owned(), info.to_string())].into()
            }
            _ => holdfast_model::Map::new(),
        };
        Ok(Response::new(v1::ImageStatusResponse { image: image.map(|image| image_to_wire(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name_of("PullImage", request.image).map_err(|status| *status)?;
        let span = tracing::debug_span!("PullImage", image = %name);
        pull_image::pull(&self.runtime, name, request.auth).instrument(span).await.map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = name_of("RemoveImage", request.into_inner().image).map_err(|status| *status)?;
        match self.runtime.remove_image(&name).await {
            Ok(()) => Ok(Response::new(v1::RemoveImageResponse {})),
            Err(source) => Err(failed("RemoveImage", format!("remove image {name:?}"), source)),
        }
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        fs_info::image_fs_info(&self.runtime).await.map(Response::new)
    }
}
