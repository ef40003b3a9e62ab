//! What the server asks of whoever has the containers.
//!
//! The server owns the connection to the client and moves the bytes; a [`Backend`] starts the process, or finds it, and
//! hands out its ends as a [`Session`].

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A process's end that is read.
pub type Source = Box<dyn AsyncRead + Send + Unpin>;
/// A process's end that is written.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;
/// A future that owns what it needs.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Which streams a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output, or the terminal's.
    pub stdout: bool,
    /// Standard error; never with `tty`.
    pub stderr: bool,
    /// A terminal (exec: make one; attach: the container has one).
    pub tty: bool,
}

/// A command in a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Container id.
    pub container_id: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// Streams.
    pub wanted: Wanted,
}

/// The container's own streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Container id.
    pub container_id: String,
    /// Streams.
    pub wanted: Wanted,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The process is over: exit code, or 128 + signal. An attach ends with 0 whatever the container's code is.
    Exited(i32),
}

/// Why something did not work, as the client is to read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// A sentence that names the thing and what to change.
    pub text: String,
}

/// A process's ends. Dropping it hangs up: its stdin and its terminal close.
pub struct Session {
    /// To its standard input or its terminal; dropped at the client's half close.
    pub stdin: Option<Sink>,
    /// Its standard output, or its terminal.
    pub stdout: Option<Source>,
    /// Its standard error.
    pub stderr: Option<Source>,
    /// Sets the size of its terminal (columns, rows); never waits.
    pub resize: Option<Box<dyn FnMut(u16, u16) + Send>>,
    /// Ready when it is over. Output may still be in the pipes then.
    pub end: Task<Result<Outcome, Failure>>,
}

/// A connection into a pod.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Whoever has the containers. Every method has a limit of its own.
pub trait Backend: Send + Sync + 'static {
    /// Starts a command.
    fn exec(&self, request: ExecRequest) -> Task<Result<Session, Failure>>;
    /// Attaches to a running container.
    fn attach(&self, request: AttachRequest) -> Task<Result<Session, Failure>>;
    /// Connects to a port of a pod's loopback, inside its network namespace, IPv4 and then IPv6.
    fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Task<Result<Box<dyn Duplex>, Failure>>;
}
