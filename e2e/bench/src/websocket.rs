//! The client's side of an exec over WebSocket, v5.channel.k8s.io.

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::sessions::Came;

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Channels of the protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const ERROR: u8 = 3;
const CLOSE: u8 = 255;

/// See the module.
pub struct WebSocket(WebSocketStream<TcpStream>);

impl WebSocket {
    /// Upgrades the connection; `rest` is the URL without its scheme.
    pub async fn open(stream: TcpStream, rest: &str) -> Result<Self> {
        let mut request = format!("ws://{rest}").into_client_request().context("a URL that is none")?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
        let (socket, _) = client_async(request, stream).await.context("upgrade to WebSocket")?;
        Ok(Self(socket))
    }

    /// What comes next.
    pub async fn next(&mut self) -> Result<Came> {
        loop {
            match self.0.next().await.context("the session broke off")?? {
                Message::Binary(bytes) => match bytes.first() {
                    Some(&STDOUT) if bytes.len() > 1 => return Ok(Came::Output(bytes.len() - 1)),
                    Some(&ERROR) if bytes.len() > 1 => {
                        return Ok(Came::Status(String::from_utf8_lossy(&bytes[1..]).into_owned()));
                    }
                    _ => {}
                },
                Message::Close(_) => bail!("closed without a status"),
                _ => {}
            }
        }
    }

    /// Bytes of standard input.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        let message = [&[STDIN], bytes].concat();
        Ok(self.0.send(Message::Binary(message.into())).await?)
    }

    /// The end of standard input.
    pub async fn finish_input(&mut self) -> Result<()> {
        Ok(self.0.send(Message::Binary(vec![CLOSE, STDIN].into())).await?)
    }
}
