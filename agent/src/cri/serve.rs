//! The gRPC server on a unix socket, or at one end of a socket pair.

use std::io;

use futures_util::stream;
use holdfast_cri::{
    holdfast::images_server::ImagesServer as ImagesServiceServer,
    v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;

use super::{
    ImageServer, RuntimeServer,
    images::ImagesServer,
    limit::{MAX_REQUEST, TooLargeLayer},
    transport::Connection,
};
use crate::runtime::Runtime;

/// Serves until `stop` is done, then lets open requests end.
pub async fn serve(
    runtime: Runtime,
    streaming: holdfast_streaming::Server,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    serve_on(runtime, Some(streaming), Box::pin(connections(listener)), stop).await
}

/// Connections of the socket, without an end.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, async |listener| {
        let stream = holdfast_streaming::accept(|cx| listener.poll_accept(cx)).await;
        Some((Ok(stream), listener))
    })
}

/// Serves a client of this process over one end of a socket pair, until `stop` is done.
pub async fn serve_one(
    runtime: Runtime,
    stream: UnixStream,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    // A server whose listener ends asks its connections to end, so this one never does.
    serve_on(runtime, None, tokio_stream::once(Ok(stream)).chain(tokio_stream::pending()), stop).await
}

async fn serve_on(
    runtime: Runtime,
    streaming: Option<holdfast_streaming::Server>,
    connections: impl Stream<Item = io::Result<UnixStream>>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runtime_service = RuntimeServiceServer::new(RuntimeServer::new(runtime.clone(), streaming))
        .max_decoding_message_size(MAX_REQUEST);
    let image_service =
        ImageServiceServer::new(ImageServer::new(runtime.clone())).max_decoding_message_size(MAX_REQUEST);
    let own_images = ImagesServiceServer::new(ImagesServer::new(runtime.images().clone()))
        .max_decoding_message_size(MAX_REQUEST);
    let connections = connections.map(|stream| stream.map(Connection::from));
    Server::builder()
        .layer(TooLargeLayer)
        .add_service(runtime_service)
        .add_service(image_service)
        .add_service(own_images)
        .serve_with_incoming_shutdown(connections, stop)
        .await
}
