//! A client of an agent, in the words of the model: what `holdfast run` and `holdfast image` speak to.

mod error;
mod images;
mod pods;
mod wire;

use std::{io, path::Path, time::Duration};

use holdfast_cri::{
    holdfast::images_client::ImagesClient,
    v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub use error::ClientError;
pub use images::{ProgressFn, PullProgress};
pub use pods::{ContainerState, ContainerStatus};

use super::limit::MAX_REQUEST;

/// How long an agent may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection to an agent.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the agent that listens there. `None`: there is none, only a stale socket or nothing at all.
    pub async fn connect(path: &Path) -> Result<Option<Self>, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(path)).await {
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Ok(Err(error)) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(failed(error)),
            },
            Ok(Ok(_)) => {}
        }
        let path = path.to_owned();
        Ok(Some(Self { channel: channel(move || UnixStream::connect(path.clone())) }))
    }

    /// Talks to a server in this process at the other end of a socket pair.
    pub fn over(stream: UnixStream) -> Self {
        let mut stream = Some(stream);
        let connect = move || {
            let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted));
            std::future::ready(stream)
        };
        Self { channel: channel(connect) }
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    fn own_images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_REQUEST)
    }
}

/// A channel over streams that `connect` makes. The address is never looked at, but a request must have one.
fn channel<C, F>(mut connect: C) -> Channel
where
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = io::Result<UnixStream>> + Send + 'static,
{
    Endpoint::from_static("http://holdfast.invalid").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let connecting = connect();
            async move { connecting.await.map(TokioIo::new) }
        },
    ))
}
