//! A connection as the documentation of k8s-cri makes it.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

/// Connects to the socket of a CRI server.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is a form that has to be kept; the connector knows where to go.
    Endpoint::from_static("http://[::]").connect_with_connector(connector).await
}
