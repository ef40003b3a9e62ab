//! PullImage.

use holdfast_cri::v1;
use tonic::Status;

use super::failed;
use crate::{cri::convert::credentials, runtime::Runtime};

/// The pull ends with its request: a client that goes away stops it, and nothing is left of it.
pub async fn pull(
    runtime: &Runtime,
    name: String,
    auth: Option<v1::AuthConfig>,
) -> Result<v1::PullImageResponse, Status> {
    let image = runtime
        .images()
        .pull(&name, credentials(auth), None)
        .await
        .map_err(|source| failed("PullImage", format!("pull image {name:?}"), source))?;
    Ok(v1::PullImageResponse { image_ref: image.id.clone() })
}
