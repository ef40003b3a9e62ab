//! Pairs of channels over plain WebSocket: 2i is the data of the i-th port, 2i + 1 its errors.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::relay::{Ends, relay};
use crate::channel::{QUEUE_BYTES, queue};
use crate::link::{Link, Stopping, Writer};
use crate::remotecommand::Times;
use crate::session::Backend;
use crate::websocket::{self, Subprotocol};

/// Serves one connection to each of `ports`, no more than the subprotocol has channels for, until all of them are over.
pub(crate) async fn serve<T>(
    io: T,
    protocol: Subprotocol,
    pod_sandbox_id: &str,
    ports: &[u16],
    backend: &dyn Backend,
    times: Times,
    stopping: &mut Stopping,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut feeders = Vec::new();
    let mut incoming = Vec::new();
    for _ in ports {
        let (feeder, queue) = queue(QUEUE_BYTES);
        feeders.extend([Some(feeder), None]);
        incoming.push(queue);
    }
    let connection = websocket::serve(io, protocol, feeders, times.idle).await;
    let mut running = JoinSet::new();
    for ((&port, data_in), number) in ports.iter().zip(incoming).zip((0..=u8::MAX).step_by(2)) {
        let mut data_out = Writer::Channel(connection.channel(protocol, number));
        let mut error = Writer::Channel(connection.channel(protocol, number + 1));
        let connect = backend.port_forward(pod_sandbox_id, port);
        running.spawn(async move {
            // The first message of each channel is its port.
            let greeting = port.to_le_bytes();
            if data_out.write(&greeting).await.is_ok() && error.write(&greeting).await.is_ok() {
                relay(Ends { data_in, data_out, error, half_closes: false }, port, connect).await;
            }
        });
    }
    let link = Link::WebSocket(connection);
    let limit = tokio::select! {
        () = async { while running.join_next().await.is_some() {} } => times.close,
        () = link.closed() => times.shutdown,
        () = stopping.wait() => times.shutdown,
    };
    drop(running);
    link.close(limit).await;
}
