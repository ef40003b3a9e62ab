//! One unary gRPC call over a unix socket, for the few requests that crictl has no command for. HTTP/2 (RFC 9113) as far
//! as one call needs it, and messages of protobuf written by hand: nothing here knows the programs' own bindings.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{place, wait};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A message of protobuf being written.
#[derive(Debug, Default, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    /// A text, bytes or a message under a field's number.
    #[must_use]
    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text.
    #[must_use]
    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, field: u64, number: i64) -> Self {
        self.varint(field << 3);
        self.varint(number as u64);
        self
    }

    /// A message.
    #[must_use]
    pub fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Calls `/<service>/<method>` and returns the answer's message. An answer without one is a refusal, and an error here.
pub fn call(socket: &Path, method: &str, message: &Message) -> Result<Vec<u8>> {
    call_within(wait::LIMIT, socket, method, message)
}

/// The same for an answer that may take longer than usual.
pub fn call_within(limit: Duration, socket: &Path, method: &str, message: &Message) -> Result<Vec<u8>> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit * place::slowness()))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    send(&mut stream, SETTINGS, 0, 0, b"")?;
    send(&mut stream, HEADERS, END_HEADERS, 1, &header(method))?;
    let mut body = vec![0];
    body.extend((message.0.len() as u32).to_be_bytes());
    body.extend(&message.0);
    ensure!(body.len() < 1 << 14, "longer than one frame");
    send(&mut stream, DATA, END_STREAM, 1, &body)?;
    let mut answer = Vec::new();
    loop {
        let (kind, flags, stream_id, payload) = receive(&mut stream).context("read the answer")?;
        match (kind, stream_id) {
            (SETTINGS, _) if flags & 1 == 0 => send(&mut stream, SETTINGS, 1, 0, b"")?,
            (DATA, 1) => answer.extend(payload),
            (RST_STREAM | GOAWAY, _) => bail!("{method}: the connection was given up"),
            _ => {}
        }
        if stream_id == 1 && flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS) {
            break;
        }
    }
    ensure!(answer.len() >= 5, "{method} was refused");
    Ok(answer.split_off(5))
}

/// A header block without compression: static names by their index, all values as they are (RFC 7541, appendix A).
fn header(method: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], method);
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");
    block
}

fn send(stream: &mut UnixStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<()> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).context("write a frame")
}

fn receive(stream: &mut UnixStream) -> Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], id, payload))
}
