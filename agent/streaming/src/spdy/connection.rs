//! A connection's tasks and its handles.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::Limits;
use super::fault::Fault;
use super::frame::away;
use super::reader::Reader;
use super::shared::{Phase, Shared};
use super::stream::NewStream;
use super::writer::Writer;

/// How long a connection that ends for a fault waits to say so.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves SPDY/3.1 on an upgraded connection. Call it inside a tokio runtime: it spawns the connection's two tasks.
///
/// The connection lives until the peer or a fault ends it, [`Connection::close`] does, or all handles are dropped:
/// [`Connection`], [`Accept`] and those of the streams.
pub fn serve<T: AsyncRead + AsyncWrite + Send + 'static>(io: T, limits: Limits) -> (Connection, Accept) {
    let (read, write) = tokio::io::split(io);
    let shared = Arc::new(Shared::new(limits, Writer::new(Box::new(write))));
    let handle = Arc::new(Handle { shared: Arc::clone(&shared) });
    // Not bounded in itself: it has at most as many streams as may be open.
    let (streams, accept) = mpsc::unbounded_channel();
    let reader = Reader::new(read, Arc::clone(&shared), Arc::downgrade(&handle), streams);
    tokio::spawn(reader.run());
    tokio::spawn(tend(shared));
    (Connection { handle: Arc::clone(&handle) }, Accept { streams: accept, handle })
}

/// Sends what is in the outbox, watches the clock, and closes the socket in the end.
async fn tend(shared: Arc<Shared>) {
    let pump = async {
        loop {
            shared.outbox.filled().await;
            if shared.send_outbox().await.is_err() {
                // The last frame has gone out, or the connection is over.
                shared.reached(Phase::Gone).await;
            }
        }
    };
    let idle = tokio::select! {
        () = shared.reached(Phase::Gone) => false,
        () = pump => false,
        () = shared.idle() => true,
    };
    if idle {
        shared.farewell(&Fault::Idle(shared.limits.idle.as_secs()), away::OK).await;
    }
    shared.reached(Phase::Gone).await;
    shared.writer.drop_half().await;
}

impl Shared {
    /// Ends the connection for a fault, and tells the peer if it listens.
    pub(super) async fn farewell(&self, fault: &Fault, status: u32) {
        self.because(fault);
        self.closing();
        // Said or not, it is over.
        let _ = tokio::time::timeout(FAREWELL, self.send_last(status)).await;
        self.gone(fault);
    }
}

/// What all handles have in common. Dropping the last one ends the connection.
pub(super) struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.gone(&Fault::Dropped);
        self.shared.stop_reading();
    }
}

/// The connection as a whole.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

impl Connection {
    /// Closes in good order: flushes what is queued, sends GOAWAY, shuts down writing and waits for the peer to close as
    /// well; `limit` in all, after which the connection is gone whatever happened.
    ///
    /// Frames that are under way are finished before; later ones fail. What the peer still sends is thrown away.
    pub async fn close(&self, limit: Duration) {
        let shared = self.handle.shared();
        // Whoever comes second only waits.
        let first = shared.closing();
        if first {
            shared.because(&Fault::Closed);
        }
        let orderly = async {
            if first && shared.send_last(away::OK).await.is_err() {
                return;
            }
            shared.reached(Phase::Gone).await;
        };
        // Too late or not, it is over.
        let _ = tokio::time::timeout(limit, orderly).await;
        shared.gone(&Fault::Closed);
    }

    /// Ready when the connection is gone: by the peer, a fault or [`Connection::close`]. Cancel safe.
    ///
    /// What the peer sent before still comes out of [`crate::channel::Incoming`], as long as one of the handles is there.
    /// A peer that closes is noticed at once while the connection is read. While it is not, because a stream's consumer
    /// is slow, one more chunk (32 KiB) is read ahead and the end of the transport noticed if it comes within it; behind
    /// that, a PING is sent every 5 s, and a peer that has closed its socket answers with a reset, which the next one
    /// meets. A machine that vanished is the transport's business (TCP keep-alive), or the idle limit's.
    pub async fn closed(&self) {
        self.handle.shared().reached(Phase::Gone).await;
    }

    /// Why it is over, with all causes; `None` while it is not.
    pub fn reason(&self) -> Option<String> {
        self.handle.shared().reason()
    }

    #[cfg(test)]
    pub(super) fn open_streams(&self) -> usize {
        self.handle.shared().open_streams()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("phase", &self.handle.shared().phase()).finish_non_exhaustive()
    }
}

/// Where the client's new streams come out. When it is dropped, new streams are refused.
pub struct Accept {
    streams: mpsc::UnboundedReceiver<NewStream>,
    handle: Arc<Handle>,
}

impl Accept {
    /// The next stream; `None` when there will be none: the connection is over, or the peer has said GOAWAY. Cancel safe.
    pub async fn next(&mut self) -> Option<NewStream> {
        tokio::select! {
            biased;
            stream = self.streams.recv() => stream,
            () = self.handle.shared().reached(Phase::Gone) => None,
        }
    }
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept").field("waiting", &self.streams.len()).finish_non_exhaustive()
    }
}
