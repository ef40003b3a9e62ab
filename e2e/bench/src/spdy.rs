//! The client's side of an exec over SPDY/3.1, v4.channel.k8s.io: as much of it as a measurement needs.

use anyhow::{Context, Result, bail, ensure};
use holdfast_streaming::spdy::{
    frame::{Control, Decoder, Event, data_head},
    headers::Encoder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::sessions::Came;

/// The streams, in the order in which they are opened; a client's have odd ids.
const ERROR: u32 = 1;
const STDOUT: u32 = 3;
const STDERR: u32 = 5;
const STDIN: u32 = 7;
/// Of the largest control frame.
const MAX_FRAME: usize = 64 * 1024;
/// Of an HTTP head.
const END: &[u8] = b"\r\n\r\n";
/// Of one read.
const READ: usize = 64 * 1024;

/// See the module.
pub struct Spdy {
    stream: TcpStream,
    decoder: Decoder,
    chunk: Vec<u8>,
    /// The part of `chunk` that was read and not looked at.
    rest: std::ops::Range<usize>,
    status: Vec<u8>,
    replies: usize,
}

impl Spdy {
    /// Upgrades the connection and opens the streams; `rest` is the URL without its scheme.
    pub async fn open(mut stream: TcpStream, rest: &str, stdin: bool) -> Result<Self> {
        let (host, path) = rest.split_once('/').context("a URL without a path")?;
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut chunk = vec![0; READ];
        let mut got = 0;
        let head = loop {
            let count = stream.read(&mut chunk[got..]).await?;
            ensure!(count > 0, "no whole answer to the upgrade: {}", String::from_utf8_lossy(&chunk[..got]));
            got += count;
            if let Some(end) = chunk[..got].windows(END.len()).position(|window| window == END) {
                break end + END.len();
            }
        };
        let text = String::from_utf8_lossy(&chunk[..head]);
        ensure!(text.starts_with("HTTP/1.1 101 "), "no upgrade: {text}");

        let mut encoder = Encoder::default();
        let mut frames = Vec::new();
        for (id, name) in [(ERROR, "error"), (STDOUT, "stdout"), (STDERR, "stderr"), (STDIN, "stdin")] {
            if id == STDIN && !stdin {
                continue;
            }
            let block = encoder.encode(&[("streamtype", name)]);
            encoder.sent();
            frames.extend(Control::SynStream { id, fin: false, unidirectional: false, block }.encode());
        }
        stream.write_all(&frames).await?;
        let decoder = Decoder::new(MAX_FRAME);
        let mut session = Self { stream, decoder, chunk, rest: head..got, status: Vec::new(), replies: 0 };
        // The Go server throws away what comes for a stream before it has replied to it.
        while session.replies < if stdin { 4 } else { 3 } {
            let early = session.step().await?;
            ensure!(early.is_none(), "output before the streams were open: {early:?}");
        }
        Ok(session)
    }

    /// What comes next.
    pub async fn next(&mut self) -> Result<Came> {
        loop {
            if let Some(came) = self.step().await? {
                return Ok(came);
            }
        }
    }

    /// The next frame or piece of one, or more bytes of it.
    async fn step(&mut self) -> Result<Option<Came>> {
        let mut rest = &self.chunk[self.rest.clone()];
        let event = self.decoder.decode(&mut rest)?;
        self.rest.start = self.rest.end - rest.len();
        let status = |bytes: &[u8]| Came::Status(String::from_utf8_lossy(bytes).into_owned());
        match event {
            Some(Event::Control(Control::SynReply { .. })) => self.replies += 1,
            Some(Event::Data { id: STDOUT, piece, .. }) if !piece.is_empty() => {
                return Ok(Some(Came::Output(piece.len())));
            }
            Some(Event::Data { id: ERROR, piece, fin }) => {
                self.status.extend_from_slice(piece);
                return Ok(fin.then(|| status(&self.status)));
            }
            // The Go server does not finish the stream but ends the connection.
            Some(Event::Control(Control::Reset { id: ERROR, .. })) if !self.status.is_empty() => {
                return Ok(Some(status(&self.status)));
            }
            Some(Event::Control(Control::Reset { id: ERROR, status })) => bail!("no status: reset {status}"),
            Some(_) => {}
            None => {
                let count = self.stream.read(&mut self.chunk).await?;
                ensure!(count > 0, "the session broke off");
                self.rest = 0..count;
            }
        }
        Ok(None)
    }

    /// Bytes of standard input.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        let frame = [&data_head(STDIN, bytes.len(), false)[..], bytes].concat();
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The end of standard input.
    pub async fn finish_input(&mut self) -> Result<()> {
        Ok(self.stream.write_all(&data_head(STDIN, 0, true)).await?)
    }
}
