//! Waits for the links of stopped pods to go, and frees their addresses then.
//!
//! A link goes with its network namespace, which is up to the kernel's clean-up thread and to whoever else holds the
//! namespace. The kernel tells of it (RTNLGRP_LINK); that is listened to only while there is something to wait for.
//! What stays for longer than [`LINGER`] is removed by RTM_DELLINK.

use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use super::pod;
use crate::{Error, netlink::Socket, network::Inner, thread};

/// How long a stopped pod's network namespace may live on before its link is taken away.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// After a failure (descriptors exhausted, say) how long until the next try.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until no link is waited for.
pub(crate) async fn run(inner: &std::sync::Arc<Inner>) {
    while let Err(error) = wait_for_all(inner).await {
        tracing::warn!(error = holdfast_model::chain(&error), "waiting for links of stopped pods");
        tokio::time::sleep(RETRY).await;
    }
}

async fn wait_for_all(inner: &std::sync::Arc<Inner>) -> Result<(), Error> {
    // Listening begins before the first look, so that no end is missed.
    let socket = Socket::link_events().map_err(Error::netlink("listen for links"))?;
    #[expect(deprecated, reason = "register is unsafe; the socket owns the one descriptor that it shows")]
    let events = AsyncFd::new(socket);
    let mut events = events.map_err(Error::io("listen for links"))?;
    loop {
        let lingering = inner.state().lingering();
        if lingering.is_empty() {
            return Ok(());
        }
        let gone = thread::blocking("reaper", move || Ok(look(lingering))).await?;
        for pod in &gone {
            inner.release(pod).await?;
        }
        let Some(first) = inner.state().lingering().iter().map(|(_, _, since)| *since).min() else {
            return Ok(());
        };
        // At least a little: a link that cannot be removed is not tried without pause.
        let wait = (first + LINGER).saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if let Ok(Ok(mut ready)) = tokio::time::timeout(wait, events.readable_mut()).await {
            ready.get_inner_mut().drain();
            ready.clear_ready();
        }
    }
}

/// Which of the links are gone; the overdue ones are made to go.
fn look(lingering: Vec<(holdfast_model::PodId, String, Instant)>) -> Vec<holdfast_model::PodId> {
    let Ok(mut socket) = pod::open_route() else { return Vec::new() };
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
    gone
}
