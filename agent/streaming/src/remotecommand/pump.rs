//! Moves the bytes of a session.

use std::future::pending;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::output::output;
use super::resize::sizes;
use super::streams::Streams;
use crate::channel::Incoming;
use crate::session::{Failure, Outcome, Session, Sink};
use crate::spdy::Accept;

/// What becomes of the session when its client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnGone {
    /// It is dropped at once.
    HangUp,
    /// Its stdin ends, and nobody reads its output any more: a process that writes on gets SIGPIPE, as with containerd, and one
    /// that does not runs to its end.
    RunOn,
}

/// Runs until the process is over and its output is with the client; `None` when the client hung up.
pub(super) async fn pump(
    streams: &mut Streams,
    session: Session,
    on_gone: OnGone,
) -> Option<Result<Outcome, Failure>> {
    let Session { stdin, stdout, stderr, resize, end } = session;
    let (over, ended) = watch::channel(false);
    let inputs = async {
        tokio::join!(
            input(streams.stdin.take(), stdin),
            sizes(streams.resize.take(), resize),
            refuse(streams.more.as_mut())
        );
        pending::<()>().await;
    };
    let outputs = async {
        tokio::join!(
            output(stdout, streams.stdout.as_mut(), ended.clone()),
            output(stderr, streams.stderr.as_mut(), ended.clone())
        )
    };
    let process = async {
        let outcome = end.await;
        over.send_replace(true);
        outcome
    };
    let gone = streams.link.closed();
    match on_gone {
        OnGone::HangUp => tokio::select! {
            (outcome, _) = async { tokio::join!(process, outputs) } => Some(outcome),
            () = inputs => None,
            () = gone => None,
        },
        OnGone::RunOn => {
            let outputs = async {
                tokio::select! {
                    _ = outputs => {}
                    () = gone => {}
                }
            };
            tokio::select! {
                (outcome, ()) = async { tokio::join!(process, outputs) } => Some(outcome),
                () = inputs => None,
            }
        }
    }
}

/// The client's bytes to the process. The sink is dropped at the half close, or when the client is gone. When the process
/// reads no more, the queue goes, and the connection drops what comes: a client that is told so would print an error.
async fn input(from: Option<Incoming>, to: Option<Sink>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.read().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// A session has its streams; more are refused.
async fn refuse(more: Option<&mut Accept>) {
    let Some(more) = more else { return };
    while let Some(stream) = more.next().await {
        stream.refuse().await;
    }
}
