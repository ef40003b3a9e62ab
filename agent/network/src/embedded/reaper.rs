//! Waits for the links of stopped pods to go, and frees their addresses then.
//!
//! A link goes with its network namespace, which is up to the kernel's clean-up thread and to whoever else holds the
//! namespace. The kernel tells of it (RTNLGRP_LINK); that is listened to only while there is something to wait for.
//! What stays for longer than [`LINGER`] is removed by RTM_DELLINK.

use std::time::{Duration, Instant};

use holdfast_model::PodId;
use tokio::io::unix::AsyncFd;

use super::pod;
use crate::{Error, netlink::Socket, network::Inner, thread};

/// How long a stopped pod's network namespace may live on before its link is taken away.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// After a failure (descriptors exhausted, say) how long until the next try, and at most.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A link that is overdue and does not go is not tried without pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until no link is waited for.
pub(crate) async fn run(inner: &std::sync::Arc<Inner>) {
    let mut retry = RETRY;
    while let Err(error) = wait_for_all(inner).await {
        tracing::warn!(error = holdfast_model::chain(&error), ?retry, "waiting for links of stopped pods");
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

async fn wait_for_all(inner: &std::sync::Arc<Inner>) -> Result<(), Error> {
    // Listening begins before the first look, so that no end is missed.
    let socket =
        thread::blocking("reaper", || Socket::link_events().map_err(Error::netlink("listen for links")));
    let socket = socket.await?;
    #[expect(deprecated, reason = "register is unsafe; the socket owns the one descriptor that it shows")]
    let events = AsyncFd::new(socket);
    let mut events = events.map_err(Error::io("listen for links"))?;
    loop {
        let lingering = inner.state().lingering();
        if lingering.is_empty() {
            return Ok(());
        }
        for pod in thread::blocking("reaper", move || look(lingering)).await? {
            // The record alone is left then, and goes as an owed DEL.
            if let Err(error) = inner.release(&pod).await {
                inner.owe_on(&pod, &error);
            }
        }
        let Some(first) = inner.state().lingering().iter().map(|(_, _, since)| *since).min() else {
            return Ok(());
        };
        let left = (first + LINGER).saturating_duration_since(Instant::now());
        let wait = if left.is_zero() { PAUSE } else { left };
        if let Ok(ready) = tokio::time::timeout(wait, events.readable_mut()).await {
            let mut ready = ready.map_err(Error::io("listen for links"))?;
            ready.get_inner_mut().drain();
            ready.clear_ready();
        }
    }
}

/// Which of the links are gone; the overdue ones are made to go.
fn look(lingering: Vec<(PodId, String, Instant)>) -> Result<Vec<PodId>, Error> {
    let mut socket = pod::open_route()?;
    let mut gone = Vec::new();
    for (pod, link, since) in lingering {
        let result = if since.elapsed() >= LINGER {
            pod::remove_link(&mut socket, &link).map(|()| false)
        } else {
            pod::is_present(&mut socket, &link)
        };
        match result {
            Ok(false) => gone.push(pod),
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(link, error = holdfast_model::chain(&error), "link of a stopped pod");
            }
        }
    }
    Ok(gone)
}
