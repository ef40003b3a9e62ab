//! A stream, as the server has it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::connection::Handle;
use super::frame::{data_head, status};
use super::headers::Headers;
use crate::channel::{Gone, Incoming};

/// Bytes of payload in a DATA frame of ours: the other streams' turn comes after as many.
const PIECE_BYTES: usize = 32 * 1024;

/// What the connection and the handles know of a stream.
#[derive(Debug)]
pub(super) struct StreamState {
    id: u32,
    replied: AtomicBool,
    finished: AtomicBool,
    dead: AtomicBool,
    died: Notify,
}

impl StreamState {
    /// `finished`: the client wants no answer.
    pub fn new(id: u32, finished: bool) -> Self {
        Self { id, replied: false.into(), finished: finished.into(), dead: false.into(), died: Notify::new() }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Our direction is half-closed.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Over in both directions.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.died.notify_waiters();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub fn is_writable(&self) -> bool {
        !self.is_dead() && !self.is_finished()
    }
}

/// Lives as long as one of a stream's handles.
pub(super) struct Both {
    handle: Arc<Handle>,
    state: Arc<StreamState>,
}

impl Both {
    pub fn new(handle: Arc<Handle>, state: Arc<StreamState>) -> Self {
        Self { handle, state }
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        let shared = self.handle.shared();
        // A client that waits for more must hear that there will be none. One that only sends hears it when it does.
        if shared.close(self.state.id) && !self.state.is_finished() {
            let replied = self.state.replied.load(Ordering::Acquire);
            shared.reset(self.state.id, if replied { status::CANCEL } else { status::REFUSED_STREAM });
        }
    }
}

/// A stream that the client wants to open. Dropping it refuses it.
pub struct NewStream {
    pub(super) headers: Headers,
    pub(super) fin: bool,
    pub(super) incoming: Incoming,
    pub(super) both: Arc<Both>,
}

impl NewStream {
    /// Its id, odd.
    pub fn id(&self) -> u32 {
        self.both.state.id
    }

    /// A header's (first) value; `name` in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Whether the client half-closed it when it opened it.
    pub fn fin(&self) -> bool {
        self.fin
    }

    /// Sends SYN_REPLY. What the client has sent meanwhile is in [`Incoming`] already.
    pub async fn accept(self) -> Result<(Incoming, Outgoing), Gone> {
        let Self { mut incoming, both, .. } = self;
        let state = &both.state;
        let replied = || state.replied.store(true, Ordering::Release);
        both.handle.shared().send_reply(state, replied).await?;
        incoming.keep(Arc::clone(&both) as Arc<_>);
        Ok((incoming, Outgoing { both }))
    }

    /// Sends RST_STREAM with REFUSED_STREAM, as dropping it does.
    #[expect(clippy::unused_async, reason = "how the frame leaves is this module's business")]
    pub async fn refuse(self) {}
}

impl fmt::Debug for NewStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewStream").field("id", &self.id()).field("fin", &self.fin).finish_non_exhaustive()
    }
}

/// The direction to the client.
///
/// Dropping it sends nothing. When [`Incoming`] is dropped as well the stream is over, and reset if it was not finished.
/// While it is kept and [`Incoming`] is not, what the client sends is read and thrown away: a reset would cut off this
/// direction too.
pub struct Outgoing {
    both: Arc<Both>,
}

impl Outgoing {
    /// Writes DATA frames of at most 32 KiB; waits for the socket, never for a window.
    ///
    /// [`Gone`] if the stream was reset or finished, or the connection is over. A call that is cancelled has written a
    /// part of `bytes`; cancelled in the middle of a frame, it takes the connection with it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let state = &self.both.state;
        for piece in bytes.chunks(PIECE_BYTES) {
            let head = data_head(state.id, piece.len(), false);
            self.both.handle.shared().send_data(state, &head, piece, || ()).await?;
        }
        Ok(())
    }

    /// Ready when the stream is over in both directions: reset by either side, or gone with its connection.
    pub fn dead(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = Arc::clone(&self.both.state);
        async move {
            let mut died = pin!(state.died.notified());
            died.as_mut().enable();
            if !state.is_dead() {
                died.await;
            }
        }
    }

    /// Half-closes: an empty DATA frame with FIN. A second time does nothing.
    pub async fn finish(&mut self) -> Result<(), Gone> {
        let state = &self.both.state;
        if state.is_finished() {
            return Ok(());
        }
        let shared = self.both.handle.shared();
        let finished = || {
            state.finish();
            shared.finished(state.id);
        };
        shared.send_data(state, &data_head(state.id, 0, true), &[], finished).await
    }

    /// Ends both directions with RST_STREAM; [`Incoming`] gets what is queued and then the end.
    #[expect(clippy::unused_async, reason = "how the frame leaves is this module's business")]
    pub async fn reset(self) {
        let (shared, id) = (self.both.handle.shared(), self.both.state.id);
        if shared.close(id) {
            shared.reset(id, status::CANCEL);
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("state", &self.both.state).finish_non_exhaustive()
    }
}
