//! Exec and attach.
//!
//! `spdy` and `ws` make [`Streams`] of a connection; from there on the transport does not matter. The backend is asked for
//! the process's ends only when the client's are there, `pump` moves the bytes, `status` says how it went.
//!
//! ```text
//! streams ─> backend ─> pump ─> FIN of stdout, stderr ─> status ─> close
//!    │          │         └ client gone: terminal and attach hang up, an exec runs on without its client
//!    └──────────┴────────> failure: status ─> close
//! ```

mod output;
mod pump;
mod resize;
mod spdy;
mod status;
mod streams;
mod version;
mod ws;

use std::time::Duration;

use crate::link::Stopping;
use crate::session::{AttachRequest, Backend, ExecRequest, Failure, Outcome, Session, Wanted};
use pump::OnGone;
use status::Ending;

pub(crate) use spdy::serve as serve_spdy;
use streams::Streams;
pub(crate) use version::{SPDY_NAMES, version};
pub(crate) use ws::serve as serve_websocket;

/// What is to be run, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// The times of a session, out of [`crate::Config`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub streams: Duration,
    pub idle: Duration,
    pub close: Duration,
    pub shutdown: Duration,
}

impl Command {
    pub fn wanted(&self) -> Wanted {
        match self {
            Self::Exec(request) => request.wanted,
            Self::Attach(request) => request.wanted,
        }
    }

    /// A terminal's hang-up ends what runs on it, and an attached client is not the container's life. An exec without a
    /// terminal runs on: its client's end is that of its stdin and of its output's reader, as with the kubelet's other runtimes.
    fn on_gone(&self) -> OnGone {
        match self {
            Self::Exec(request) if !request.wanted.tty => OnGone::RunOn,
            Self::Exec(_) | Self::Attach(_) => OnGone::HangUp,
        }
    }

    async fn start(&self, backend: &dyn Backend) -> Result<Session, Failure> {
        match self {
            Self::Exec(request) => backend.exec(request.clone()).await,
            Self::Attach(request) => backend.attach(request.clone()).await,
        }
    }

    /// A failure, with the name of the thing.
    fn failed(&self, failure: &Failure) -> Ending {
        Ending::Failed(match self {
            Self::Exec(request) => format!("exec in container {}: {failure}", request.container_id),
            Self::Attach(request) => format!("attach to container {}: {failure}", request.container_id),
        })
    }
}

/// Runs the session to its end, the process's, the client's or the server's.
async fn run(
    mut streams: Streams,
    command: Command,
    backend: &dyn Backend,
    times: Times,
    stopping: &mut Stopping,
) {
    let whole = async {
        if let Some(ending) = work(&mut streams, &command, backend).await {
            streams.conclude(&ending).await;
            streams.link.close(times.close).await;
        }
    };
    let stopped = tokio::select! {
        () = whole => false,
        () = stopping.wait() => true,
    };
    if stopped {
        // Without a status client-go takes the connection's end for success. The session is dropped by now; if that was in
        // the middle of a write to a slow client, so is the connection, and this fails at once.
        let ending = Ending::Failed("the container runtime is shutting down".to_owned());
        let _ = tokio::time::timeout(times.shutdown / 2, streams.conclude(&ending)).await;
        streams.link.close(times.shutdown / 2).await;
    }
}

/// Starts and pumps; `None` when the client hung up.
async fn work(streams: &mut Streams, command: &Command, backend: &dyn Backend) -> Option<Ending> {
    let outcome = match command.start(backend).await {
        Ok(session) => pump::pump(streams, session, command.on_gone()).await?,
        Err(failure) => Err(failure),
    };
    Some(match outcome {
        Ok(Outcome::Exited(code)) => Ending::Exited(code),
        Err(failure) => command.failed(&failure),
    })
}
