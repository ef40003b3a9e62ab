//! The client's side, frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::super::frame::{Control, Decoder, Event, data_head};
use super::super::headers::{Headers, Inflater};
use super::super::tests_support::Deflater;
use super::super::{Accept, Connection, Limits, NewStream, Outgoing, serve};
use crate::channel::Incoming;

/// Long enough for anything that is to happen.
pub const SOON: Duration = Duration::from_secs(20);

/// What a client sees; DATA as it comes in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Control(Control),
    Data { id: u32, bytes: Vec<u8>, fin: bool },
    End,
}

pub struct Client {
    pub io: DuplexStream,
    decoder: Decoder,
    deflater: Deflater,
    inflater: Inflater,
    waiting: Vec<u8>,
}

/// A client, and the server that it talks to, through a pipe of so many bytes.
pub fn connect(pipe: usize, limits: Limits) -> (Client, Connection, Accept) {
    let (near, far) = duplex(pipe);
    let (connection, accept) = serve(far, limits);
    let client = Client {
        io: near,
        decoder: Decoder::new(1 << 20),
        deflater: Deflater::new(),
        inflater: Inflater::new(1 << 20),
        waiting: Vec::new(),
    };
    (client, connection, accept)
}

/// A connection with one stream, 1.
pub async fn one_stream(pipe: usize, limits: Limits) -> (Client, Connection, Accept, Incoming, Outgoing) {
    let (mut client, connection, mut accept) = connect(pipe, limits);
    client.open(1, "data").await;
    let (incoming, outgoing) = next(&mut accept).await.accept().await.expect("accept");
    client.reply(1).await;
    (client, connection, accept, incoming, outgoing)
}

pub async fn next(accept: &mut Accept) -> NewStream {
    timeout(SOON, accept.next()).await.expect("in time").expect("a stream")
}

/// All that a stream gets.
pub async fn read_all(incoming: &mut Incoming) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = timeout(SOON, incoming.read()).await.expect("in time") {
        all.extend_from_slice(&bytes);
    }
    all
}

impl Client {
    pub async fn send(&mut self, frame: Control) {
        self.raw(&frame.encode()).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        timeout(SOON, self.io.write_all(bytes)).await.expect("in time").expect("write");
    }

    pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        self.deflater.deflate(&plain)
    }

    pub async fn open(&mut self, id: u32, kind: &str) {
        let block = self.block(&[("streamtype", kind)]);
        self.send(Control::SynStream { id, fin: false, unidirectional: false, block }).await;
    }

    pub async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.raw(&[&data_head(id, bytes.len(), fin), bytes].concat()).await;
    }

    pub async fn seen(&mut self) -> Seen {
        timeout(SOON, self.see()).await.expect("in time")
    }

    async fn see(&mut self) -> Seen {
        loop {
            let mut rest = self.waiting.as_slice();
            let event = self.decoder.decode(&mut rest).expect("frame").map(|event| match event {
                Event::Control(frame) => Seen::Control(frame),
                Event::Data { id, piece, fin } => Seen::Data { id, bytes: piece.to_vec(), fin },
            });
            self.waiting = rest.to_vec();
            if let Some(event) = event {
                return event;
            }
            let mut chunk = vec![0; 64 * 1024];
            match self.io.read(&mut chunk).await {
                Ok(0) | Err(_) => return Seen::End,
                Ok(count) => self.waiting.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Expects SYN_REPLY without headers.
    pub async fn reply(&mut self, stream: u32) {
        match self.seen().await {
            Seen::Control(Control::SynReply { id, fin: false, block }) if id == stream => {
                let block = self.inflater.inflate(&block).expect("block");
                assert_eq!(Headers::parse(block).expect("headers").iter().count(), 0);
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn reset(&mut self, id: u32, status: u32) {
        assert_eq!(self.seen().await, Seen::Control(Control::Reset { id, status }));
    }

    /// A PING there and back: all frames before it have been dealt with.
    pub async fn ping(&mut self, id: u32) {
        self.send(Control::Ping { id }).await;
        assert_eq!(self.seen().await, Seen::Control(Control::Ping { id }));
    }
}
