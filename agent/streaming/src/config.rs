//! What an operator or a test may set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A certificate for the server, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The server's settings. The defaults are those of the kubelet's peers, where they have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The host of the URLs: a name, or an address without brackets or port. Without it, `address`, or the loopback of its
    /// family when that is unspecified: the kubelet that follows the URL is on this node.
    pub advertise: Option<String>,
    /// Serve https.
    pub tls: Option<Tls>,
    /// How long a URL may wait for its client.
    pub token_ttl: Duration,
    /// URLs that wait at a time; more are refused with [`crate::Error::TooMany`].
    pub max_tokens: usize,
    /// Connections that have not been upgraded yet. One more, and the oldest is closed.
    pub max_half_open: usize,
    /// How long a connection may take from accept until its response is out.
    pub head_timeout: Duration,
    /// How long a client may take to open the streams of a session, or the second one of a port-forward's pair.
    pub stream_creation_timeout: Duration,
    /// A connection without a frame for this long is closed.
    pub idle_timeout: Duration,
    /// How long the last bytes of a session may take to a client that does not read, once the session is over.
    pub close_timeout: Duration,
    /// How long sessions may take to say goodbye at shutdown.
    pub shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            tls: None,
            token_ttl: Duration::from_mins(1),
            max_tokens: 1_000,
            max_half_open: 100,
            head_timeout: Duration::from_secs(10),
            stream_creation_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_hours(4),
            close_timeout: Duration::from_mins(1),
            shutdown_timeout: Duration::from_secs(2),
        }
    }
}
