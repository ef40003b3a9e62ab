//! A registry of a few lines on loopback, that also misbehaves on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::images::TestImage;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    /// Requests for the same path before this one.
    pub earlier: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// What is done instead of the right thing.
#[derive(Debug, Clone)]
pub enum Act {
    /// Status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The right answer with so many bytes of its body, then the connection is closed.
    Cut(usize),
    /// The right answer, whatever range was asked for.
    Whole,
    /// Other bytes of the same length.
    Garble,
    /// The right body, with this for its length.
    Length(u64),
    /// A body without length that never ends.
    Endless,
    /// Nothing at all.
    Silence,
    /// The right answer with so many bytes of its body, then nothing.
    Stall(usize),
    /// The right answer, a byte at a time.
    Trickle,
    /// The right answer, when somebody calls `Registry::open_gate`.
    Gate,
    /// Closed without an answer.
    HangUp,
    /// Not HTTP.
    Noise,
}

type Rule = Arc<dyn Fn(&Request) -> Option<Act> + Send + Sync>;

#[derive(Default)]
struct State {
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Request>>,
    gate: tokio::sync::Notify,
    open: AtomicBool,
}

pub struct Registry {
    state: Arc<State>,
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.spawn(connection(stream, Arc::clone(&state)));
                }
            }
        });
        Self { state, address, task }
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `host/repository:tag`.
    pub fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    pub fn manifest(&self, repository: &str, reference: &str, kind: &str, body: &[u8]) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.state.content.lock().unwrap().insert(path, (kind.to_owned(), body.to_vec()));
    }

    pub fn blob(&self, repository: &str, digest: &str, body: &[u8]) {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let kind = "application/octet-stream".to_owned();
        self.state.content.lock().unwrap().insert(path, (kind, body.to_vec()));
    }

    /// Everything of an image, under a tag and under its digest.
    pub fn add(&self, repository: &str, tag: &str, image: &TestImage) {
        self.manifest(repository, tag, &image.kind, &image.manifest);
        self.manifest(repository, &image.digest(), &image.kind, &image.manifest);
        self.blob(repository, &image.id(), &image.config);
        for layer in &image.layers {
            self.blob(repository, &layer.digest(), &layer.blob);
        }
    }

    /// The first rule that has an answer decides; new ones come last.
    pub fn rule(&self, rule: impl Fn(&Request) -> Option<Act> + Send + Sync + 'static) {
        self.state.rules.lock().unwrap().push(Arc::new(rule));
    }

    /// All requests for this path misbehave.
    pub fn always(&self, part: impl Into<String>, act: Act) {
        let part = part.into();
        self.rule(move |request| request.path.contains(&part).then(|| act.clone()));
    }

    pub fn be_good(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    pub fn open_gate(&self) {
        self.state.open.store(true, Ordering::SeqCst);
        self.state.gate.notify_waiters();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.log.lock().unwrap().clone()
    }

    pub fn forget_requests(&self) {
        self.state.log.lock().unwrap().clear();
    }

    /// Requests whose path has this in it.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    while let Some(request) = read_request(&mut stream, &state).await {
        if serve(&mut stream, &state, &request).await.is_none() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, state: &State) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        assert!(head.len() < 64 << 10, "endless head");
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(key, _)| key == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut log = state.log.lock().unwrap();
    let earlier = log.iter().filter(|known| known.path == path).count();
    let request = Request { path: path.to_owned(), query: query.to_owned(), headers, earlier };
    log.push(request.clone());
    Some(request)
}

/// Nothing if the connection is to be closed.
async fn serve(stream: &mut TcpStream, state: &State, request: &Request) -> Option<()> {
    let rules: Vec<Rule> = state.rules.lock().unwrap().clone();
    let act = rules.iter().find_map(|rule| rule(request));
    match &act {
        Some(Act::Answer(status, headers, body)) => {
            let headers: Vec<_> = headers.iter().map(|(key, value)| (*key, value.clone())).collect();
            head(stream, *status, &headers, Some(body.len() as u64)).await?;
            return stream.write_all(body).await.ok();
        }
        Some(Act::HangUp) => return None,
        Some(Act::Silence) => return forever().await,
        Some(Act::Noise) => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.ok()?;
            return None;
        }
        Some(Act::Gate) => {
            let opened = state.gate.notified();
            if !state.open.load(Ordering::SeqCst) {
                opened.await;
            }
        }
        _ => {}
    }
    let found = state.content.lock().unwrap().get(&request.path).cloned();
    let Some((kind, body)) = found else {
        let message = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}"#;
        head(stream, 404, &[("content-type", "application/json".into())], Some(message.len() as u64)).await?;
        return stream.write_all(message).await.ok();
    };
    right_answer(stream, request, act, &kind, body).await
}

async fn right_answer(
    stream: &mut TcpStream,
    request: &Request,
    act: Option<Act>,
    kind: &str,
    mut body: Vec<u8>,
) -> Option<()> {
    let mut headers = vec![("content-type", kind.to_owned())];
    let mut status = 200;
    let range = request.header("range").filter(|_| !matches!(act, Some(Act::Whole)));
    if let Some(start) =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
    {
        headers.push(("content-range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())));
        body.drain(..start);
        status = 206;
    }
    let length = body.len() as u64;
    match act {
        Some(Act::Cut(bytes)) => {
            head(stream, status, &headers, Some(length)).await?;
            stream.write_all(&body[..bytes.min(body.len())]).await.ok()?;
            None
        }
        Some(Act::Stall(bytes)) => {
            head(stream, status, &headers, Some(length)).await?;
            stream.write_all(&body[..bytes.min(body.len())]).await.ok()?;
            forever().await
        }
        Some(Act::Trickle) => {
            head(stream, status, &headers, Some(length)).await?;
            for byte in body {
                stream.write_all(&[byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Some(())
        }
        Some(Act::Length(length)) => {
            head(stream, status, &headers, Some(length)).await?;
            stream.write_all(&body).await.ok()?;
            None
        }
        Some(Act::Endless) => {
            head(stream, status, &headers, None).await?;
            let piece = vec![b' '; 64 << 10];
            loop {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.ok()?;
                stream.write_all(&piece).await.ok()?;
                stream.write_all(b"\r\n").await.ok()?;
            }
        }
        act => {
            if matches!(act, Some(Act::Garble)) {
                let at = body.len() / 2;
                body[at] ^= 1;
            }
            head(stream, status, &headers, Some(length)).await?;
            stream.write_all(&body).await.ok()
        }
    }
}

/// Until the test ends.
async fn forever() -> Option<()> {
    std::future::pending().await
}

/// Without a length the body comes in chunks.
async fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, String)],
    length: Option<u64>,
) -> Option<()> {
    let mut lines = vec![format!("HTTP/1.1 {status} Whatever")];
    lines.extend(headers.iter().map(|(key, value)| format!("{key}: {value}")));
    lines.push(match length {
        Some(length) => format!("content-length: {length}"),
        None => "transfer-encoding: chunked".into(),
    });
    stream.write_all((lines.join("\r\n") + "\r\n\r\n").as_bytes()).await.ok()
}
