//! A byte stream over binary messages: the tunnel in which KEP-4006 runs SPDY through WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes of a message to the client.
const PIECE: usize = 32 * 1024;

/// The adapter. A close frame or the end of the socket is the end of the stream; messages' borders mean nothing.
pub(crate) struct Tunnel<T> {
    socket: WebSocketStream<T>,
    /// What is left of the last message.
    rest: Bytes,
    /// The close frame is on its way.
    closing: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    pub async fn new(io: T) -> Self {
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(super::config())).await;
        Self { socket, rest: Bytes::new(), closing: false }
    }

    fn socket(&mut self) -> Pin<&mut WebSocketStream<T>> {
        Pin::new(&mut self.socket)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.socket().poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.rest = data,
                Some(Ok(Message::Text(_))) => {
                    let text = "a text message inside a SPDY tunnel";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                // After a close frame the next poll writes the answer and ends.
                Some(Ok(_)) => {}
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket().poll_ready(cx)).map_err(io_error)?;
        let count = bytes.len().min(PIECE);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        // Without a write buffer this goes to the socket at once; what does not fit is written by the next poll.
        self.socket().start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(self.socket().poll_ready(cx)).map_err(io_error)?;
            // client-go takes this code alone for the end of the stream, any other for an error.
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            self.closing = true;
            match self.socket().start_send(Message::Close(Some(frame))) {
                Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
                Err(error) => return Poll::Ready(Err(io_error(error))),
            }
        }
        match ready!(self.socket().poll_flush(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io_error(error))),
        }
    }
}
