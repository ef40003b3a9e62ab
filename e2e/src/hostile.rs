//! A registry that misbehaves, in one chosen way, while it serves one of the test images.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    place,
    registry::{blob, digest_of, read_json},
};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vice {
    /// Nothing: the control that the others are compared with.
    None,
    /// 401 to everything, without a way to log in.
    Unauthorized,
    /// A layer is not what its digest says.
    Digest,
    /// A layer is longer than its manifest says.
    Longer,
    /// A layer is shorter than its manifest says.
    Shorter,
    /// A layer begins and never goes on.
    Stall,
    /// 500 to everything.
    Broken,
    /// A manifest that is no JSON.
    Garbage,
}

/// It serves until it is dropped.
#[derive(Debug)]
pub struct Hostile {
    /// `127.0.0.1:<port>`.
    pub address: String,
    _server: Server,
}

impl Hostile {
    /// Serves the test image `name` under every repository and tag.
    pub fn serve(name: &str, vice: Vice) -> Result<Self> {
        let digest = digest_of(name)?;
        let server = Server::start(move |stream, method, path, closed| {
            answer(stream, method, path, &digest, vice, closed)
        })?;
        Ok(Self { address: server.address.clone(), _server: server })
    }

    /// Its image.
    pub fn image(&self) -> String {
        format!("{}/hostile:1", self.address)
    }
}

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

fn answer(
    mut stream: &TcpStream,
    method: &str,
    path: &str,
    digest: &str,
    vice: Vice,
    closed: &AtomicBool,
) -> Result<()> {
    let layout = place::images();
    let failure = match vice {
        Vice::Unauthorized => {
            Some(("401 Unauthorized", r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#))
        }
        Vice::Broken => Some(("500 Internal Server Error", "oops")),
        _ => None,
    };
    if let Some((status, body)) = failure {
        return send(stream, method, status, "application/json", "", body.as_bytes(), body.len());
    }
    if path == "/v2/" {
        return send(stream, method, "200 OK", "application/json", "", b"{}", 2);
    }
    if path.contains("/manifests/") {
        let manifest = read_json(&blob(&layout, digest))?;
        let bytes = fs::read(blob(&layout, digest))?;
        let bytes = if vice == Vice::Garbage { b"<html>no manifest</html>".to_vec() } else { bytes };
        let kind = manifest["mediaType"].as_str().unwrap_or("application/json");
        return send(stream, method, "200 OK", kind, digest, &bytes, bytes.len());
    }
    let wanted = path.rsplit('/').next().unwrap_or_default();
    let Ok(mut bytes) = fs::read(blob(&layout, wanted)) else {
        return send(stream, method, "404 Not Found", "application/json", "", b"{}", 2);
    };
    if is_layer(&read_json(&blob(&layout, digest))?, wanted) {
        let middle = bytes.len() / 2;
        match vice {
            Vice::Digest => bytes[middle] ^= 0xff,
            Vice::Longer => bytes.extend_from_slice(&[0; 1000]),
            Vice::Shorter => bytes.truncate(middle),
            Vice::Stall => {
                send(stream, method, "200 OK", OCTETS, "", &bytes[..middle], bytes.len())?;
                while !closed.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            _ => {}
        }
    }
    send(stream, method, "200 OK", OCTETS, "", &bytes, bytes.len())?;
    Ok(stream.flush()?)
}

const OCTETS: &str = "application/octet-stream";

fn is_layer(manifest: &Value, digest: &str) -> bool {
    manifest["layers"].as_array().into_iter().flatten().any(|layer| layer["digest"] == digest)
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
