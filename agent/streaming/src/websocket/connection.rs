//! A connection with channels: one task reads and sorts, one task writes.
//!
//! Both have their own half of the socket, so that a client that does not read can still be heard, and one whose input
//! nobody wants can still be told things. Back-pressure is TCP's: the reader waits while a channel's queue is full, the
//! queue to the writer holds one message.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::codec::{Event, Subprotocol};
use super::idle::Idle;
use crate::channel::{Feeder, Gone};

/// Bytes of a message to the client: what client-go reads at a time.
const PIECE: usize = 32 * 1024;
/// While we do not read, we see no ping, and client-go gives up after 61 s without a pong. RFC 6455, section 5.5.3, allows
/// a pong that nobody asked for.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the end of a connection that the client closed may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The connection; its tasks end when all of its clones and channels are dropped.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

/// A channel's direction to the client.
pub(crate) struct Channel {
    connection: Connection,
    protocol: Subprotocol,
    number: u8,
}

struct Inner {
    messages: mpsc::Sender<Message>,
    closed: watch::Receiver<bool>,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Serves an upgraded connection; `feeders[n]` takes what the client sends on channel n, and what has none is dropped.
pub(crate) async fn serve<T>(
    io: T,
    protocol: Subprotocol,
    feeders: Vec<Option<Feeder>>,
    idle: Duration,
) -> Connection
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = WebSocketStream::from_raw_socket(io, Role::Server, Some(super::config())).await;
    let (sink, stream) = stream.split();
    let (messages, queue) = mpsc::channel(1);
    let (over, closed) = watch::channel(false);
    let over = Arc::new(over);
    let idle = Arc::new(Idle::new(idle));
    let reader = Reader { stream, protocol, feeders, messages: messages.clone(), idle: idle.clone() };
    let reading = tokio::spawn({
        let over = over.clone();
        async move {
            reader.run().await;
            over.send_replace(true);
        }
    });
    let writing = tokio::spawn(async move {
        let mut end = over.subscribe();
        tokio::select! {
            () = write(sink, queue, &idle) => {}
            // The queue goes with us: whoever waits for room in it learns that the client is gone.
            _ = end.wait_for(|over| *over) => {}
        }
        over.send_replace(true);
    });
    let tasks = [reading.abort_handle(), writing.abort_handle()];
    Connection(Arc::new(Inner { messages, closed, tasks }))
}

impl Connection {
    /// A channel to the client.
    pub fn channel(&self, protocol: Subprotocol, number: u8) -> Channel {
        Channel { connection: self.clone(), protocol, number }
    }

    /// Ready when the connection is gone. Cancel safe.
    pub async fn closed(&self) {
        // An error is the end of both tasks, which is the end.
        let _ = self.0.closed.clone().wait_for(|over| *over).await;
    }

    /// Writes what is queued and a close frame, and waits for the client's, `limit` in all.
    pub async fn close(&self, limit: Duration) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = timeout(limit, async {
            if self.0.messages.send(Message::Close(Some(frame))).await.is_ok() {
                self.closed().await;
            }
        })
        .await;
        self.0.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Channel {
    /// Writes messages, and waits for a slow client. No bytes are a message too.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        let mut rest = bytes;
        loop {
            let (piece, next) = rest.split_at(rest.len().min(PIECE));
            let message = self.protocol.encode(self.number, piece);
            self.connection.0.messages.send(message).await.map_err(|_| Gone)?;
            if next.is_empty() {
                return Ok(());
            }
            rest = next;
        }
    }
}

async fn write<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut queue: mpsc::Receiver<Message>,
    idle: &Idle,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = queue.recv().await {
        let last = message.is_close();
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "write to a WebSocket");
            return;
        }
        idle.touch();
        if last {
            // The connection goes on until the reader has the client's answer.
            std::future::pending::<()>().await;
        }
    }
}

struct Reader<T> {
    stream: SplitStream<WebSocketStream<T>>,
    protocol: Subprotocol,
    feeders: Vec<Option<Feeder>>,
    messages: mpsc::Sender<Message>,
    idle: Arc<Idle>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    async fn run(mut self) {
        loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                () = self.idle.expired() => return,
            };
            let data = match message {
                Some(Ok(Message::Binary(data))) => data,
                Some(Ok(Message::Text(text))) => text.into(),
                // A ping's pong goes out with the next read.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    self.idle.touch();
                    continue;
                }
                Some(Ok(Message::Close(_))) => return self.goodbye().await,
                Some(Err(error)) => {
                    tracing::debug!(%error, "read from a WebSocket");
                    return;
                }
                None => return,
            };
            self.idle.touch();
            match self.protocol.decode(data) {
                Event::Data(channel, data) => {
                    if !self.deliver(channel, data).await {
                        return;
                    }
                }
                Event::Close(channel) => match self.feeders.get_mut(usize::from(channel)) {
                    Some(feeder) => drop(feeder.take()),
                    None => return,
                },
                Event::Nothing => {}
                Event::Malformed => return,
            }
        }
    }

    /// Hands on what came; `false` when that took longer than the idle limit.
    async fn deliver(&mut self, channel: u8, mut data: Bytes) -> bool {
        let index = usize::from(channel);
        while !data.is_empty() {
            let Some(Some(feeder)) = self.feeders.get(index) else { return true };
            let piece = data.split_to(data.len().min(PIECE));
            match self.feed(feeder, piece).await {
                Some(Ok(())) => {}
                // Nobody reads it any more: the rest is dropped.
                Some(Err(Gone)) => self.feeders[index] = None,
                None => return false,
            }
        }
        true
    }

    /// Waits for a slow consumer, with signs of life to the client; `None` when there was none from the client for the
    /// idle limit.
    async fn feed(&self, feeder: &Feeder, piece: Bytes) -> Option<Result<(), Gone>> {
        let mut feeding = pin!(feeder.feed(piece));
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                biased;
                fed = &mut feeding => return Some(fed),
                _ = heartbeat.tick() => {
                    // A full queue to the writer is a sign of life as well.
                    let _ = self.messages.try_send(Message::Pong(Bytes::new()));
                }
                () = self.idle.expired() => return None,
            }
        }
    }

    /// The client has closed: our answer goes out with the next reads.
    async fn goodbye(&mut self) {
        self.feeders.clear();
        let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = self.stream.next().await {} }).await;
    }
}
