//! Port-forward: connections of a client's to ports of a pod.
//!
//! Over SPDY, and over SPDY inside a WebSocket, each is a pair of streams and there may be many (`pairs`). Over plain
//! WebSocket they are pairs of channels, one for each port that the request names (`channels`). `relay` moves the bytes of
//! one of them.

mod channels;
mod headers;
mod pairs;
mod relay;

pub(crate) use channels::serve as serve_websocket;
pub(crate) use headers::port;
pub(crate) use pairs::{MAX_PAIRS, serve as serve_spdy};

/// Over SPDY.
pub(crate) const SPDY_NAME: &str = "portforward.k8s.io";
/// SPDY as binary messages of a WebSocket, KEP-4006.
pub(crate) const TUNNEL_NAME: &str = "SPDY/3.1+portforward.k8s.io";
