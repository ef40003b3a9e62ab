//! As much of an HTTP/1.1 server as a double of a registry needs.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};

/// The first byte of a TLS connection: the type of its first record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// An HTTP server on loopback whose answers are the caller's, one thread for each connection.
#[derive(Debug)]
pub(crate) struct Server {
    /// `127.0.0.1:<port>`.
    pub address: String,
    closing: Arc<AtomicBool>,
}

impl Server {
    /// `answer` gets method and path, and a flag that says that nobody waits for it any more.
    pub fn start(
        answer: impl Fn(&TcpStream, &str, &str, &AtomicBool) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        // Addresses and connections are this thread's: so is its network namespace.
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let address = listener.local_addr().context("read a free port")?.to_string();
        let closing = Arc::new(AtomicBool::new(false));
        let closed = closing.clone();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::Relaxed) {
                    break;
                }
                let (answer, closed) = (answer.clone(), closed.clone());
                thread::spawn(move || drop(talk(&stream, &closed, &*answer)));
            }
        });
        Ok(Self { address, closing })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

fn talk(
    stream: &TcpStream,
    closed: &AtomicBool,
    answer: &impl Fn(&TcpStream, &str, &str, &AtomicBool) -> Result<()>,
) -> Result<()> {
    let mut reader = BufReader::new(stream);
    // containerd begins with TLS, and takes an answer in plain HTTP for the sign to go on with that.
    if reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
        return send(stream, "GET", "400 Bad Request", "", "", b"", 0);
    }
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        answer(stream, method, path, closed)?;
    }
}

/// A header that promises `length` bytes, and as many as there are. Without a `kind` no Content-Type is sent.
pub(crate) fn send(
    mut stream: &TcpStream,
    method: &str,
    status: &str,
    kind: &str,
    digest: &str,
    body: &[u8],
    length: usize,
) -> Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
    if !kind.is_empty() {
        let _ = write!(head, "Content-Type: {kind}\r\n");
    }
    if !digest.is_empty() {
        let _ = write!(head, "Docker-Content-Digest: {digest}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if method != "HEAD" {
        stream.write_all(body)?;
    }
    Ok(())
}
