//! A client that speaks WebSocket with channels.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Head, dial, request, soon};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    base64: bool,
    /// What came on each channel.
    pub got: HashMap<u8, Vec<u8>>,
    pub close: Option<CloseFrame>,
}

/// Asks for an upgrade with the subprotocols that a client lists.
pub async fn upgrade(url: &str, protocols: &str) -> (Head, TcpStream) {
    let mut io = dial(url).await;
    let mut headers = vec![
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    if !protocols.is_empty() {
        headers.push(("Sec-WebSocket-Protocol", protocols));
    }
    let head = request(&mut io, "GET", url, &headers).await;
    (head, io)
}

/// A connection with the subprotocol, or none.
pub async fn connect(url: &str, protocol: &str) -> Client {
    let (head, io) = upgrade(url, protocol).await;
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(head.header("sec-websocket-protocol").unwrap_or_default(), protocol);
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    Client { socket, base64: protocol.contains("base64"), got: HashMap::new(), close: None }
}

impl Client {
    pub fn message(&self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            Message::text(format!("{channel}{}", STANDARD.encode(bytes)))
        } else {
            Message::binary([&[channel], bytes].concat())
        }
    }

    pub async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = self.message(channel, bytes);
        soon(self.socket.send(message)).await.unwrap();
    }

    /// v5's half close.
    pub async fn close_channel(&mut self, channel: u8) {
        soon(self.socket.send(Message::binary(vec![255, channel]))).await.unwrap();
    }

    /// Takes the next message in; `false` at the end.
    pub async fn next(&mut self) -> bool {
        let data = match soon(self.socket.next()).await {
            Some(Ok(Message::Binary(data))) => {
                assert!(!self.base64);
                self.got.entry(data[0]).or_default().extend_from_slice(&data[1..]);
                return true;
            }
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                self.close = frame;
                return true;
            }
            Some(Ok(_)) => return true,
            Some(Err(Error::ConnectionClosed)) | None => return false,
            Some(Err(error)) => panic!("{error}"),
        };
        assert!(self.base64);
        let (channel, rest) = data.split_at(1);
        let bytes = STANDARD.decode(rest).unwrap();
        self.got.entry(channel.parse().unwrap()).or_default().extend_from_slice(&bytes);
        true
    }

    /// Reads to the end.
    pub async fn read_all(&mut self) {
        while self.next().await {}
    }

    pub fn text(&self, channel: u8) -> &str {
        self.got.get(&channel).map_or("", |bytes| std::str::from_utf8(bytes).unwrap())
    }

    /// Reads until a channel's text ends so.
    pub async fn until(&mut self, channel: u8, end: &str) {
        while !self.text(channel).ends_with(end) {
            assert!(self.next().await, "{:?}", self.got);
        }
    }
}
