//! What the sessions see of a connection, whichever transport it is.

use std::time::Duration;

use tokio::sync::watch;

use crate::channel::Gone;
use crate::session::Task;
use crate::{spdy, websocket};

/// A stream's direction to the client.
pub(crate) enum Writer {
    Spdy(spdy::Outgoing),
    Channel(websocket::Channel),
}

impl Writer {
    /// Writes all of it, and waits for a slow client.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match self {
            Self::Spdy(stream) => stream.write(bytes).await,
            Self::Channel(channel) => channel.write(bytes).await,
        }
    }

    /// Half-closes. WebSocket has no word for it that a client would know: there the connection's end is the stream's.
    pub async fn finish(&mut self) {
        if let Self::Spdy(stream) = self {
            // A client that is gone needs no FIN.
            let _ = stream.finish().await;
        }
    }

    /// Ready when the client has reset the stream, or is gone. Over channels there is no reset, and a client's end is seen
    /// by whoever reads.
    pub fn dead(&self) -> Task<()> {
        match self {
            Self::Spdy(stream) => Box::pin(stream.dead()),
            Self::Channel(_) => Box::pin(std::future::pending()),
        }
    }

    /// Ends the stream in both directions.
    pub async fn reset(self) {
        if let Self::Spdy(stream) = self {
            stream.reset().await;
        }
    }
}

/// The connection as a whole.
#[derive(Clone)]
pub(crate) enum Link {
    Spdy(spdy::Connection),
    WebSocket(websocket::Connection),
}

impl Link {
    /// Flushes, says goodbye and waits for the client to do the same, `limit` in all.
    pub async fn close(&self, limit: Duration) {
        match self {
            Self::Spdy(connection) => connection.close(limit).await,
            Self::WebSocket(connection) => connection.close(limit).await,
        }
    }

    /// Ready when the client is gone. Cancel safe.
    pub async fn closed(&self) {
        match self {
            Self::Spdy(connection) => connection.closed().await,
            Self::WebSocket(connection) => connection.closed().await,
        }
    }
}

/// The server's wish to end.
#[derive(Clone)]
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Ready once the server stops.
    pub async fn wait(&mut self) {
        // A server that is gone has stopped as well.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}
