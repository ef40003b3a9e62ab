//! A session's streams over SPDY: the client opens them, one by one and in any order.

use tokio::time::timeout;

use super::status::Ending;
use super::version::resizes;
use super::{Command, Streams, Times, run};
use crate::channel::{Gone, Incoming};
use crate::link::{Link, Stopping, Writer};
use crate::session::{Backend, Wanted};
use crate::spdy::{Accept, Connection, NewStream, Outgoing};

type Pair = (Incoming, Outgoing);

/// The values of `streamtype`.
const TYPES: [&str; 5] = ["error", "stdin", "stdout", "stderr", "resize"];

/// The streams that are there, in the order of [`TYPES`].
#[derive(Default)]
struct Opened([Option<Pair>; 5]);

/// Serves one session on an upgraded connection.
pub(crate) async fn serve(
    connection: Connection,
    mut accept: Accept,
    version: u8,
    command: Command,
    backend: &dyn Backend,
    times: Times,
    stopping: &mut Stopping,
) {
    let wanted = command.wanted();
    let mut opened = Opened::default();
    let complete = tokio::select! {
        complete = timeout(times.streams, opened.collect(&mut accept, wanted, version)) => complete,
        () = stopping.wait() => Ok(Err(Gone)),
    };
    let link = Link::Spdy(connection);
    match complete {
        Ok(Ok(())) => {
            if let Some(streams) = opened.into_streams(link, accept, version) {
                run(streams, command, backend, times, stopping).await;
            }
        }
        Ok(Err(Gone)) => link.close(times.shutdown).await,
        Err(_) => {
            let text = format!(
                "the client did not open its streams within {} s: {} missing",
                times.streams.as_secs_f32(),
                opened.missing(wanted, version).join(", ")
            );
            tracing::debug!(text, "remotecommand");
            if let Some(mut streams) = opened.into_streams(link.clone(), accept, version) {
                let _ = timeout(times.shutdown, streams.conclude(&Ending::Failed(text))).await;
            }
            link.close(times.shutdown).await;
        }
    }
}

impl Opened {
    /// Takes streams until none is missing; [`Gone`] when the client is.
    async fn collect(&mut self, accept: &mut Accept, wanted: Wanted, version: u8) -> Result<(), Gone> {
        while !self.missing(wanted, version).is_empty() {
            let stream = accept.next().await.ok_or(Gone)?;
            self.add(stream, wanted).await?;
        }
        Ok(())
    }

    async fn add(&mut self, stream: NewStream, wanted: Wanted) -> Result<(), Gone> {
        let index = TYPES.iter().position(|name| stream.header("streamtype") == Some(*name));
        let Some(slot) = index.and_then(|index| self.0.get_mut(index)) else {
            tracing::debug!(id = stream.id(), "a stream of no known type: refused");
            stream.refuse().await;
            return Ok(());
        };
        if slot.is_some() {
            tracing::debug!(id = stream.id(), "a second stream of its type: refused");
            stream.refuse().await;
            return Ok(());
        }
        let (incoming, mut outgoing) = stream.accept().await?;
        // One that the request does not speak of is empty from the start, in the direction that is ours.
        if index == Some(2) && !wanted.stdout || index == Some(3) && !wanted.stderr {
            let _ = outgoing.finish().await;
        }
        *slot = Some((incoming, outgoing));
        Ok(())
    }

    fn missing(&self, wanted: Wanted, version: u8) -> Vec<&'static str> {
        let needed = [true, wanted.stdin, wanted.stdout, wanted.stderr, wanted.tty && resizes(version)];
        let open = self.0.each_ref().map(Option::is_some);
        TYPES
            .into_iter()
            .zip(needed)
            .zip(open)
            .filter(|((_, needed), open)| *needed && !open)
            .map(|((name, _), _)| name)
            .collect()
    }

    /// `None` without an error stream. What clients send on streams that are not theirs to write is dropped.
    fn into_streams(self, link: Link, accept: Accept, version: u8) -> Option<Streams> {
        let [error, stdin, stdout, stderr, resize] = self.0;
        let mut silent = Vec::new();
        let mut input = |pair: Option<Pair>| {
            pair.map(|(incoming, outgoing)| {
                silent.push(Writer::Spdy(outgoing));
                incoming
            })
        };
        let (stdin, resize) = (input(stdin), input(resize));
        let output = |pair: Option<Pair>| pair.map(|(_, outgoing)| Writer::Spdy(outgoing));
        let status = output(error)?;
        let (stdout, stderr) = (output(stdout), output(stderr));
        Some(Streams { link, version, stdin, stdout, stderr, resize, status, silent, more: Some(accept) })
    }
}
