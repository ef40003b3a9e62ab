//! What the server says to the CRI layer.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_rustls::rustls;

/// Which of gRPC's codes an [`Error`] is meant to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `InvalidArgument`: the request has to change.
    Invalid,
    /// `ResourceExhausted`: the same request works later.
    Exhausted,
    /// `Internal`.
    Internal,
}

/// A request that gets no URL, or a server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Exec and attach.
    #[error("container_id is empty: name the container")]
    NoContainer,
    /// Port-forward.
    #[error("pod_sandbox_id is empty: name the pod sandbox")]
    NoSandbox,
    /// Exec.
    #[error("cmd is empty: name the program to run")]
    NoCommand,
    /// A terminal has one output.
    #[error("tty and stderr are both set: a terminal has no separate stderr, ask for stdout alone")]
    TerminalWithStderr,
    /// Nothing to stream.
    #[error("none of stdin, stdout and stderr is set: set at least one")]
    NoStream,
    /// Port-forward.
    #[error("port {0} is not in 1..=65535")]
    Port(i32),
    /// As many URLs wait for their clients as may.
    #[error("{limit} streaming requests wait for their clients already: use or drop some")]
    TooMany {
        /// [`crate::Config::max_tokens`].
        limit: usize,
    },
    /// getrandom(2).
    #[error("make a token: getrandom")]
    Random(#[source] rustix::io::Errno),
    /// The listener.
    #[error("listen for streaming clients on {address}")]
    Listen {
        /// [`crate::Config::address`].
        address: SocketAddr,
        /// bind(2), listen(2), or the runtime's registration.
        source: std::io::Error,
    },
    /// A PEM file.
    #[error("read {path} for the streaming server")]
    Pem {
        /// [`crate::Tls::cert`] or [`crate::Tls::key`].
        path: PathBuf,
        /// Not there, or not PEM.
        source: rustls::pki_types::pem::Error,
    },
    /// Key and certificate do not fit.
    #[error("certificate {cert} with its key")]
    Certificate {
        /// [`crate::Tls::cert`].
        cert: PathBuf,
        /// What rustls does not like.
        source: rustls::Error,
    },
}

impl Error {
    /// The gRPC code's class.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoContainer
            | Self::NoSandbox
            | Self::NoCommand
            | Self::TerminalWithStderr
            | Self::NoStream
            | Self::Port(_) => Kind::Invalid,
            Self::TooMany { .. } => Kind::Exhausted,
            Self::Random(_) | Self::Listen { .. } | Self::Pem { .. } | Self::Certificate { .. } => {
                Kind::Internal
            }
        }
    }
}
