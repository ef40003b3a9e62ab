//! Containers that are processes of this machine, and pods that are its loopback.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use holdfast_streaming::session::{
    AttachRequest, Backend, Duplex, ExecRequest, Failure, Outcome, Session, Sink, Source, Task, Wanted,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;

/// What the sessions did, for the tests to look at.
#[derive(Default)]
pub struct Seen {
    /// Sessions that were dropped before their process was over.
    pub hung_up: watch::Sender<usize>,
    /// Processes that were over.
    pub over: watch::Sender<usize>,
    /// Sizes of terminals.
    pub sizes: watch::Sender<Vec<(u16, u16)>>,
    /// Bytes taken from an endless output.
    pub taken: AtomicU64,
    /// Requests, as they came.
    pub execs: Mutex<Vec<ExecRequest>>,
}

/// The backend. A container's id is a shell script for attach, and for exec `missing` or `endless` are special.
#[derive(Default, Clone)]
pub struct Fake(pub Arc<Seen>);

impl Backend for Fake {
    fn exec(&self, request: ExecRequest) -> Task<Result<Session, Failure>> {
        self.0.execs.lock().unwrap().push(request.clone());
        let seen = self.0.clone();
        Box::pin(async move {
            match request.container_id.as_str() {
                "missing" => Err(Failure { text: "container missing is not running: start it first".into() }),
                "endless" => Ok(endless(&seen)),
                _ => Ok(process(&request.command, request.wanted, &seen)),
            }
        })
    }

    fn attach(&self, request: AttachRequest) -> Task<Result<Session, Failure>> {
        let seen = self.0.clone();
        let command = ["sh".to_owned(), "-c".to_owned(), request.container_id];
        Box::pin(async move { Ok(process(&command, request.wanted, &seen)) })
    }

    fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Task<Result<Box<dyn Duplex>, Failure>> {
        let pod = pod_sandbox_id.to_owned();
        Box::pin(async move {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn Duplex>),
                Err(error) => Err(Failure { text: format!("connect to pod {pod}: {error}") }),
            }
        })
    }
}

/// Counts a session that is dropped before its end.
struct Guard {
    seen: Arc<Seen>,
    over: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let counter = if self.over { &self.seen.over } else { &self.seen.hung_up };
        counter.send_modify(|count| *count += 1);
    }
}

fn process(command: &[String], wanted: Wanted, seen: &Arc<Seen>) -> Session {
    let stdio = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(stdio(wanted.stdin))
        .stdout(stdio(wanted.stdout))
        .stderr(stdio(wanted.stderr))
        .kill_on_drop(wanted.tty)
        .spawn()
        .unwrap();
    let sizes = seen.clone();
    let resize = move |columns, rows| sizes.sizes.send_modify(|sizes| sizes.push((columns, rows)));
    let guard = Guard { seen: seen.clone(), over: false };
    Session {
        stdin: child.stdin.take().map(|pipe| Box::new(pipe) as Sink),
        stdout: child.stdout.take().map(|pipe| Box::new(pipe) as Source),
        stderr: child.stderr.take().map(|pipe| Box::new(pipe) as Source),
        resize: wanted.tty.then(|| Box::new(resize) as Box<dyn FnMut(u16, u16) + Send>),
        end: Box::pin(async move {
            let mut guard = guard;
            let status = child.wait().await.unwrap();
            guard.over = true;
            Ok(Outcome::Exited(status.code().unwrap_or(255)))
        }),
    }
}

/// An output without end.
fn endless(seen: &Arc<Seen>) -> Session {
    let guard = Guard { seen: seen.clone(), over: false };
    Session {
        stdin: None,
        stdout: Some(Box::new(Endless(seen.clone()))),
        stderr: None,
        resize: None,
        end: Box::pin(async move {
            let _guard = guard;
            std::future::pending().await
        }),
    }
}

struct Endless(Arc<Seen>);

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = buffer.remaining();
        buffer.put_slice(&vec![b'y'; count]);
        self.0.taken.fetch_add(count as u64, Ordering::Relaxed);
        // The other tasks are to have a turn as well.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}
