//! Pairs of streams over SPDY, as many as the client likes up to a limit.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::headers::{Half, Place, place};
use super::relay::{Ends, relay};
use crate::channel::{Gone, Incoming};
use crate::link::{Link, Stopping, Writer};
use crate::session::Backend;
use crate::spdy::{Accept, Connection, NewStream, Outgoing};

/// Connections at a time over one client's, the incomplete ones included.
pub(crate) const MAX_PAIRS: usize = 1_000;
/// How long the sentence about an incomplete pair may take to a client that does not read.
const SENTENCE: Duration = Duration::from_secs(10);

/// A stream that waits for the other one.
struct Waiting {
    half: Half,
    port: u16,
    incoming: Incoming,
    outgoing: Outgoing,
    deadline: Instant,
}

struct Pairs<'a> {
    backend: &'a dyn Backend,
    pod_sandbox_id: &'a str,
    limit: Duration,
    waiting: HashMap<String, Waiting>,
    running: JoinSet<()>,
}

/// Serves a connection until the client or the server ends it; the connections in the pod end with it.
pub(crate) async fn serve(
    connection: Connection,
    mut accept: Accept,
    pod_sandbox_id: &str,
    backend: &dyn Backend,
    times: crate::remotecommand::Times,
    stopping: &mut Stopping,
) {
    let mut pairs = Pairs {
        backend,
        pod_sandbox_id,
        limit: times.streams,
        waiting: HashMap::new(),
        running: JoinSet::new(),
    };
    tokio::select! {
        () = pairs.run(&mut accept) => {}
        () = stopping.wait() => {}
    }
    drop(pairs);
    Link::Spdy(connection).close(times.shutdown).await;
}

impl Pairs<'_> {
    async fn run(&mut self, accept: &mut Accept) {
        loop {
            let deadline = self.waiting.values().map(|waiting| waiting.deadline).min();
            tokio::select! {
                stream = accept.next() => match stream {
                    Some(stream) => if self.add(stream).await.is_err() { return },
                    None => return,
                },
                Some(_) = self.running.join_next() => {}
                () = until(deadline) => self.expire(),
            }
        }
    }

    async fn add(&mut self, stream: NewStream) -> Result<(), Gone> {
        let Some(Place { half, port, request }) = place(&stream) else {
            tracing::debug!(id = stream.id(), "a stream without a valid streamtype and port: refused");
            stream.refuse().await;
            return Ok(());
        };
        match self.waiting.remove(&request) {
            None => {
                if self.waiting.len() + self.running.len() >= MAX_PAIRS {
                    tracing::debug!(request, limit = MAX_PAIRS, "too many connections: refused");
                    stream.refuse().await;
                    return Ok(());
                }
                let (incoming, outgoing) = stream.accept().await?;
                let deadline = Instant::now() + self.limit;
                self.waiting.insert(request, Waiting { half, port, incoming, outgoing, deadline });
            }
            Some(first) if first.half == half => {
                tracing::debug!(request, "a second stream of its type: refused");
                self.waiting.insert(request, first);
                stream.refuse().await;
            }
            Some(first) => {
                let (incoming, outgoing) = stream.accept().await?;
                // The data stream's port counts, as with the peers.
                let (data_in, data_out, error, port) = match half {
                    Half::Data => (incoming, outgoing, first.outgoing, port),
                    Half::Error => (first.incoming, first.outgoing, outgoing, first.port),
                };
                let ends = Ends {
                    data_in,
                    data_out: Writer::Spdy(data_out),
                    error: Writer::Spdy(error),
                    half_closes: true,
                };
                let connect = self.backend.port_forward(self.pod_sandbox_id, port);
                self.running.spawn(relay(ends, port, connect));
            }
        }
        Ok(())
    }

    /// Gives up on the pairs whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        let limit = self.limit.as_secs_f32();
        for (request, waiting) in self.waiting.extract_if(|_, waiting| waiting.deadline <= now) {
            let mut outgoing = waiting.outgoing;
            match waiting.half {
                Half::Data => drop(self.running.spawn(outgoing.reset())),
                Half::Error => {
                    let text = format!(
                        "forward port {}: no data stream of request {request} within {limit} s",
                        waiting.port
                    );
                    self.running.spawn(async move {
                        let sentence = async {
                            let _ = outgoing.write(text.as_bytes()).await;
                            let _ = outgoing.finish().await;
                        };
                        let _ = timeout(SENTENCE, sentence).await;
                    });
                }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
