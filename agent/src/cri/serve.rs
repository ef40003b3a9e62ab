//! The gRPC server on a unix socket.

use holdfast_cri::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{
    ImageServer, RuntimeServer,
    limit::{MAX_REQUEST, TooLargeLayer},
};
use crate::runtime::Runtime;

/// Serves until `stop` is done, then lets open requests end.
pub async fn serve(
    runtime: Runtime,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runtime_service =
        RuntimeServiceServer::new(RuntimeServer::new(runtime.clone())).max_decoding_message_size(MAX_REQUEST);
    let image_service =
        ImageServiceServer::new(ImageServer::new(runtime.clone())).max_decoding_message_size(MAX_REQUEST);
    Server::builder()
        .layer(TooLargeLayer)
        .add_service(runtime_service)
        .add_service(image_service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
        .await
}
