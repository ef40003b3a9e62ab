//! The server with real sockets and real processes; its clients are written here, upon the codecs of the package.

#![expect(clippy::unwrap_used, reason = "tests")]

mod attach;
mod backend;
mod exec_spdy;
mod exec_websocket;
mod go;
mod gone;
mod http;
mod port_forward;
mod port_forward_websocket;
mod spdy_client;
mod stop;
mod support;
mod websocket_client;
