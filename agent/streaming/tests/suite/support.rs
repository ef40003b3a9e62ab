//! A server, and the first steps of a client.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use holdfast_streaming::session::{AttachRequest, ExecRequest, Wanted};
use holdfast_streaming::{Config, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::backend::{Fake, Seen};

/// Long enough for whatever is to happen.
pub const SOON: Duration = Duration::from_mins(1);

/// The streams of a session.
pub const IN: Wanted = Wanted { stdin: true, stdout: false, stderr: false, tty: false };
pub const OUT: Wanted = Wanted { stdin: false, stdout: true, stderr: false, tty: false };
pub const IN_OUT: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
pub const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
pub const TTY: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };

/// A server that runs.
pub struct Running {
    pub server: Server,
    pub seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub fn start() -> Running {
    start_with(Config::default())
}

pub fn start_with(config: Config) -> Running {
    let fake = Fake::default();
    let seen = fake.0.clone();
    let server = Server::bind(config, Arc::new(fake)).unwrap();
    let (stop, stopped) = oneshot::channel();
    let running = server.clone();
    let task = tokio::spawn(async move {
        running
            .run(async {
                let _ = stopped.await;
            })
            .await
            .unwrap();
    });
    Running { server, seen, stop: Some(stop), task }
}

impl Running {
    /// Stops it, and waits until all has ended.
    pub async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        soon(&mut self.task).await.unwrap();
    }

    pub fn shell(&self, script: &str, wanted: Wanted) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.server.exec_url(ExecRequest { container_id: "c".into(), command, wanted }).unwrap()
    }

    pub fn exec(&self, container_id: &str, wanted: Wanted) -> String {
        let (container_id, command) = (container_id.into(), vec!["true".into()]);
        self.server.exec_url(ExecRequest { container_id, command, wanted }).unwrap()
    }

    pub fn attach(&self, script: &str, wanted: Wanted) -> String {
        self.server.attach_url(AttachRequest { container_id: script.into(), wanted }).unwrap()
    }

    /// Waits until no session is left.
    pub async fn idle(&self) {
        until(|| self.server.sessions() == 0).await;
    }
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

/// Waits for a condition.
pub async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub async fn reaches<T>(value: &watch::Sender<T>, condition: impl FnMut(&T) -> bool) {
    soon(value.subscribe().wait_for(condition)).await.unwrap();
}

/// A response's head.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: HashMap<String, Vec<String>>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|values| values[0].as_str())
    }
}

pub fn authority(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

pub async fn dial(url: &str) -> TcpStream {
    soon(TcpStream::connect(authority(url))).await.unwrap()
}

/// Sends a request over a connection, and reads the head of the response, no byte more.
pub async fn request<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> Head {
    let path = url.splitn(4, '/').nth(3).unwrap();
    let mut text = format!("{method} /{path} HTTP/1.1\r\nHost: {}\r\n", authority(url));
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text += "\r\n";
    io.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    soon(async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
    })
    .await;
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.entry(name.to_lowercase()).or_default().push(value.to_owned());
    }
    Head { status, headers }
}

/// The status of a request by itself.
pub async fn status(method: &str, url: &str, headers: &[(&str, &str)]) -> u16 {
    request(&mut dial(url).await, method, url, headers).await.status
}

/// Bytes with a pattern that no shift leaves alone.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
