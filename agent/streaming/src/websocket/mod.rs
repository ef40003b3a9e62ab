//! WebSocket (RFC 6455) as Kubernetes uses it: several channels over one connection, a byte in front of each message.
//!
//! `k8s.io/streaming`'s wsstream is the peer of the older subprotocols, KEP-4006 describes v5 and the tunnel.

mod codec;
mod connection;
mod idle;
mod tunnel;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub(crate) use codec::Subprotocol;
pub(crate) use connection::{Channel, Connection, serve};
pub(crate) use tunnel::Tunnel;

/// Bytes of the largest message that a client may send. Clients cut stdin into pieces of some 32 KiB; those that do not,
/// and send a file in one message, find more room here than in most servers.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Bytes read from the socket at a time.
const READ_BUFFER: usize = 32 * 1024;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // A message goes to the socket as it is written: what waits is the client's business, not our memory's.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}
