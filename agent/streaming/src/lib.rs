//! Exec, attach and port-forward: the HTTP server that hands out one-time URLs, and the two protocols that its clients
//! speak, SPDY/3.1 and WebSocket.
//!
//! [`server::Server`] is the way in: it keeps a request under a token, answers with its URL, and when the client comes
//! back for it runs the session against a [`session::Backend`]. `negotiate` and `http` turn an HTTP request into one of
//! the two transports; `remotecommand` and `port_forward` are the sessions, and see a transport as [`channel`] queues in
//! one direction and a `link` in the other.

pub mod channel;
pub mod config;
pub mod error;
mod half_open;
mod http;
mod link;
mod listen;
mod negotiate;
mod port_forward;
mod remotecommand;
pub mod server;
pub mod session;
pub mod spdy;
mod tls;
mod tokens;
mod websocket;

pub use config::{Config, Tls};
pub use error::{Error, Kind};
pub use listen::accept;
pub use server::Server;
