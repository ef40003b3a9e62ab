//! The direction from the peer: one task that takes the connection's bytes apart and hands them out.
//!
//! It stops while the queue of a stream is full, which stops the peer: nothing is dropped, and there are no windows. It
//! holds one chunk of the connection, one control frame and what the streams' queues have.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::connection::Handle;
use super::fault::Fault;
use super::frame::{Control, Decoder, Event, away, status};
use super::headers::{Headers, Inflater};
use super::shared::{Phase, Place, Reading, Shared};
use super::stream::{Both, NewStream, StreamState};
use crate::channel::queue;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// Time between PING frames of ours while the connection is not read.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// Our PING; a server's ids are even.
const PING_ID: u32 = 2;

pub(super) struct Reader<T> {
    input: Input<T>,
    decoder: Decoder,
    inflater: Inflater,
    shared: Arc<Shared>,
    /// Weak, or the connection would outlive its handles.
    handle: Weak<Handle>,
    accept: Option<mpsc::UnboundedSender<NewStream>>,
}

/// An event that owns its bytes.
enum Step {
    Control(Control),
    Data { id: u32, piece: Bytes, fin: bool },
}

impl<T: AsyncRead + Send + 'static> Reader<T> {
    pub fn new(
        read: ReadHalf<T>,
        shared: Arc<Shared>,
        handle: Weak<Handle>,
        accept: mpsc::UnboundedSender<NewStream>,
    ) -> Self {
        Self {
            input: Input::new(read),
            decoder: Decoder::new(shared.limits.max_frame),
            inflater: Inflater::new(shared.limits.max_headers),
            shared,
            handle,
            accept: Some(accept),
        }
    }

    /// Until the connection is over, and then the streams are as well.
    pub async fn run(mut self) {
        if let Err(fault) = self.serve().await {
            tracing::debug!(reason = %fault.text(), "SPDY connection ends");
            if fault.is_protocol() {
                self.shared.end_streams();
                self.shared.farewell(&fault, away::PROTOCOL_ERROR).await;
            }
            self.shared.gone(&fault);
        }
        self.shared.end_streams();
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        loop {
            while let Some(step) = self.step()? {
                self.shared.touch();
                match step {
                    Step::Control(frame) => self.control(frame)?,
                    Step::Data { id, piece, fin } => self.data(id, piece, fin).await,
                }
                if self.shared.outbox.is_full() {
                    let shared = Arc::clone(&self.shared);
                    self.wait(shared.outbox.room()).await;
                }
            }
            if self.input.at_end() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.shared.reading_until(Reading::Stop) => return Ok(()),
                filled = self.input.fill() => self.filled(filled),
            }
        }
    }

    fn step(&mut self) -> Result<Option<Step>, Fault> {
        let mut rest = self.input.bytes();
        let before = rest.len();
        let step = self.decoder.decode(&mut rest)?.map(|event| match event {
            Event::Control(frame) => Step::Control(frame),
            Event::Data { id, piece, fin } => Step::Data { id, piece: Bytes::copy_from_slice(piece), fin },
        });
        let taken = before.saturating_sub(rest.len());
        self.input.consume(taken);
        Ok(step)
    }

    /// Notes the end of the transport. What was read before it still goes to its streams.
    fn filled(&mut self, filled: std::io::Result<usize>) {
        match filled {
            Ok(0) => self.shared.gone(&Fault::PeerClosed),
            Ok(_) => return,
            Err(error) => self.shared.gone(&Fault::Read(error)),
        }
        self.input.close();
        self.accept = None;
    }

    /// Waits for what a consumer or the peer has to do, and keeps an eye on the peer meanwhile. `None`: given up,
    /// because the connection is closing.
    async fn wait<F: Future>(&mut self, what: F) -> Option<F::Output> {
        let shared = Arc::clone(&self.shared);
        let mut what = pin!(what);
        let mut ping = pin!(sleep(PING_PERIOD));
        loop {
            tokio::select! {
                biased;
                done = &mut what => return Some(done),
                () = shared.reading_until(Reading::Discard) => return None,
                filled = self.input.fill(), if self.input.has_room() => self.filled(filled),
                () = &mut ping => {
                    // One that waits to be written tells as much as two.
                    if shared.outbox.is_empty() && shared.phase() == Phase::Open {
                        shared.outbox.push(&Control::Ping { id: PING_ID });
                    }
                    ping.as_mut().reset(Instant::now() + PING_PERIOD);
                }
            }
        }
    }

    async fn data(&mut self, id: u32, piece: Bytes, fin: bool) {
        if let Place::Queue(feeder) = self.shared.place(id, fin)
            && !piece.is_empty()
            && self.shared.reading() == Reading::Deliver
        {
            // A consumer that has left, or that we do not wait for, gets nothing: there is nobody to get it.
            let _ = self.wait(feeder.feed(piece)).await;
        }
        if fin {
            self.shared.peer_finished(id);
        }
    }

    fn control(&mut self, frame: Control) -> Result<(), Fault> {
        match frame {
            Control::SynStream { id, fin, unidirectional, block } => {
                let block = self.inflater.inflate(&block)?;
                self.syn_stream(id, fin, unidirectional, block);
            }
            // There is no stream of ours to be answered; but the block has its place in the stream of blocks.
            Control::SynReply { id, block, .. } => {
                self.inflater.inflate(&block)?;
                self.shared.close(id);
                self.shared.reset(id, status::INVALID_STREAM);
            }
            Control::Headers { id, fin, block } => {
                self.inflater.inflate(&block)?;
                if fin {
                    self.shared.peer_finished(id);
                }
            }
            Control::Reset { id, .. } => {
                self.shared.close(id);
            }
            Control::Ping { id } => {
                // Even ones are answers to ours.
                if id & 1 == 1 && self.shared.phase() == Phase::Open {
                    self.shared.outbox.push(&Control::Ping { id });
                }
            }
            Control::GoAway { .. } => {
                self.accept = None;
                self.shared.peer_away();
            }
        }
        Ok(())
    }

    fn syn_stream(&mut self, id: u32, fin: bool, unidirectional: bool, block: Vec<u8>) {
        let headers = match Headers::parse(block) {
            Ok(headers) => headers,
            Err(error) => {
                tracing::debug!(id, %error, "SPDY stream refused");
                self.shared.skip(id);
                self.shared.close(id);
                self.shared.reset(id, status::PROTOCOL_ERROR);
                return;
            }
        };
        let state = Arc::new(StreamState::new(id, unidirectional));
        let (feeder, incoming) = queue(self.shared.limits.queue);
        if !self.shared.open(id, (!fin).then_some(feeder), &state) {
            return;
        }
        // Without handles, or without anybody who accepts, it is refused by being dropped.
        if let Some(handle) = self.handle.upgrade() {
            let stream = NewStream { headers, fin, incoming, both: Arc::new(Both::new(handle, state)) };
            if let Some(accept) = &self.accept {
                let _ = accept.send(stream);
            }
        }
    }
}

/// The transport and one chunk of it.
struct Input<T> {
    /// `None` after its end.
    read: Option<ReadHalf<T>>,
    chunk: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<T: AsyncRead> Input<T> {
    fn new(read: ReadHalf<T>) -> Self {
        Self { read: Some(read), chunk: vec![0; CHUNK_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.chunk.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn close(&mut self) {
        self.read = None;
    }

    fn at_end(&self) -> bool {
        self.read.is_none() && self.start == self.end
    }

    fn has_room(&self) -> bool {
        self.read.is_some() && (self.start > 0 || self.end < self.chunk.len())
    }

    /// Reads more behind what is there: the count of bytes, 0 at the end. Only with room. Cancel safe.
    async fn fill(&mut self) -> std::io::Result<usize> {
        if self.end == self.chunk.len() {
            self.chunk.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let (Some(read), Some(room)) = (&mut self.read, self.chunk.get_mut(self.end..)) else { return Ok(0) };
        let count = read.read(room).await?;
        self.end = self.end.saturating_add(count).min(self.chunk.len());
        Ok(count)
    }
}
