//! Exec, attach and port-forward: the HTTP server that hands out one-time URLs, and the two protocols that its clients
//! speak, SPDY/3.1 and WebSocket.

pub mod channel;
pub mod session;
pub mod spdy;
