//! Why a connection is over.

use std::io;

use super::frame::FrameError;
use super::headers::InflateError;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("protocol error")]
    Frame(#[from] FrameError),
    #[error("protocol error")]
    Inflate(#[from] InflateError),
    #[error("read from the peer")]
    Read(#[source] io::Error),
    #[error("write to the peer")]
    Write(#[source] io::Error),
    #[error("the peer closed the connection")]
    PeerClosed,
    #[error("the peer went away")]
    PeerAway,
    #[error("closed by this side")]
    Closed,
    #[error("nothing came or went for the idle limit of {0} s")]
    Idle(u64),
    #[error("a write was cancelled in the middle of a frame")]
    Cancelled,
    #[error("all handles of the connection were dropped")]
    Dropped,
}

impl Fault {
    /// Whether the peer is to be told that it broke a rule.
    pub fn is_protocol(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Inflate(_))
    }

    /// Whether it is the peer's end of the transport that is gone. What it sent before may still be read.
    pub fn is_peers_end(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(_) | Self::PeerClosed)
    }

    /// With all its causes, for a log.
    pub fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
