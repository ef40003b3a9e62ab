//! The direction to the peer, shared by all streams: whole frames, one after the other, first come first served.

use std::io;

use bytes::{Buf, buf::Chain};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::fault::Fault;
use super::frame::Control;
use super::headers::Encoder;
use super::shared::{Phase, Shared};
use super::stream::StreamState;
use crate::channel::Gone;

/// The half of the transport that is written.
pub(super) type Half = Box<dyn AsyncWrite + Send + Unpin>;

/// tokio's mutex is fair, which makes the streams' turns fair as well.
pub(super) struct Writer {
    line: Mutex<Line>,
}

struct Line {
    /// `None` when the connection is over.
    half: Option<Half>,
    /// GOAWAY has been sent.
    shut: bool,
    replies: Encoder,
}

impl Writer {
    pub fn new(half: Half) -> Self {
        Self { line: Mutex::new(Line { half: Some(half), shut: false, replies: Encoder::default() }) }
    }

    /// Closes the transport's half. Whoever writes has given up by then, the phase being [`Phase::Gone`].
    pub async fn drop_half(&self) {
        self.line.lock().await.half = None;
    }
}

impl Line {
    fn half(&mut self) -> Result<&mut Half, Gone> {
        self.half.as_mut().filter(|_| !self.shut).ok_or(Gone)
    }
}

/// A frame on its way. Half of one would shift all that follows: whoever gives up in the middle ends the connection.
struct Unfinished<'a> {
    shared: &'a Shared,
    rest: Chain<&'a [u8], &'a [u8]>,
    total: usize,
}

impl<'a> Unfinished<'a> {
    fn new(shared: &'a Shared, head: &'a [u8], payload: &'a [u8]) -> Self {
        Self { shared, rest: head.chain(payload), total: head.len().saturating_add(payload.len()) }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.rest.has_remaining() && self.rest.remaining() < self.total {
            self.shared.gone(&Fault::Cancelled);
        }
    }
}

impl Shared {
    /// Runs a write until it is through or the connection is over.
    async fn until_gone<T>(&self, write: impl Future<Output = Result<T, Gone>>) -> Result<T, Gone> {
        tokio::select! {
            biased;
            () = self.reached(Phase::Gone) => Err(Gone),
            done = write => done,
        }
    }

    /// One write, by whoever has the line. `written` is told when the peer will get all of it, come what may.
    async fn put(
        &self,
        half: &mut Half,
        head: &[u8],
        payload: &[u8],
        written: impl FnOnce(),
    ) -> Result<(), Gone> {
        let mut frame = Unfinished::new(self, head, payload);
        let done = half.write_all_buf(&mut frame.rest).await;
        if let Err(error) = done {
            return Err(self.broken(error));
        }
        drop(frame);
        written();
        half.flush().await.map_err(|error| self.broken(error))?;
        Ok(())
    }

    fn broken(&self, error: io::Error) -> Gone {
        self.gone(&Fault::Write(error));
        Gone
    }

    /// What is in the outbox. It is taken out under the lock, or GOAWAY could overtake it.
    pub async fn send_outbox(&self) -> Result<(), Gone> {
        self.until_gone(async {
            let mut line = self.writer.line.lock().await;
            let half = line.half()?;
            self.put(half, &self.outbox.take(), &[], || ()).await
        })
        .await
    }

    /// A frame of a stream, which may have ended while it waited for its turn.
    pub async fn send_data(
        &self,
        stream: &StreamState,
        head: &[u8],
        payload: &[u8],
        written: impl FnOnce(),
    ) -> Result<(), Gone> {
        self.until_gone(async {
            let mut line = self.writer.line.lock().await;
            if !stream.is_writable() || self.phase() != Phase::Open {
                return Err(Gone);
            }
            self.put(line.half()?, head, payload, written).await?;
            self.touch();
            Ok(())
        })
        .await
    }

    /// SYN_REPLY without headers. Its block has a place in the stream of blocks, so that it is made under the lock.
    pub async fn send_reply(&self, stream: &StreamState, written: impl FnOnce()) -> Result<(), Gone> {
        self.until_gone(async {
            let line = &mut *self.writer.line.lock().await;
            if stream.is_dead() || self.phase() != Phase::Open {
                return Err(Gone);
            }
            let block = line.replies.encode(&[]);
            let frame = Control::SynReply { id: stream.id(), fin: false, block }.encode();
            let mut sent = false;
            let done = self.put(line.half()?, &frame, &[], || sent = true).await;
            if sent {
                line.replies.sent();
                written();
            }
            done
        })
        .await
    }

    /// The last frames: what is left in the outbox, GOAWAY, and the end of this direction.
    pub async fn send_last(&self, status: u32) -> Result<(), Gone> {
        self.until_gone(async {
            let mut line = self.writer.line.lock().await;
            let half = line.half()?;
            let away = Control::GoAway { last: self.last_id(), status }.encode();
            self.put(half, &self.outbox.take(), &away, || ()).await?;
            half.shutdown().await.map_err(|error| self.broken(error))?;
            line.shut = true;
            Ok(())
        })
        .await
    }
}
