//! CRI over a unix socket.

use std::path::{Path, PathBuf};

use holdfast_cri::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Both services over one connection.
#[derive(Debug, Clone)]
pub struct Cri {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub image: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects with the first call.
    pub fn to(socket: &Path) -> Self {
        let path = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector_lazy(service_fn(move |_: Uri| connect(path.clone())));
        Self { runtime: RuntimeServiceClient::new(channel.clone()), image: ImageServiceClient::new(channel) }
    }
}

async fn connect(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(path).await.map(TokioIo::new)
}
