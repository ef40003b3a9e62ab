//! Threads that block: one-shot ones for work inside a pod's network namespace, the pool for work on the host's.

use std::os::fd::{AsFd, OwnedFd};

use holdfast_sys::failpoint;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::Error;

/// Runs `work` on a thread of its own that ends with it, so that whatever namespace it entered goes with it.
pub(crate) async fn one_shot<T, F>(name: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    let (answer, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // A caller that went away does not want the answer; the work is done all the same.
            let _ = answer.send(work());
        })
        .map_err(Error::io(format!("start the thread {name}")))?;
    result.await.map_err(|_| Error::Lost(name))?
}

/// Runs `work` on tokio's pool of blocking threads.
pub(crate) async fn blocking<T, F>(name: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Lost(name))?
}

/// Moves the calling thread into a network namespace for good; only ever called from [`one_shot`].
pub(crate) fn enter(netns: &OwnedFd) -> Result<(), Error> {
    failpoint::at("network.netns.enter")
        .and_then(|()| Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?))
        .map_err(Error::io("enter the network namespace of the pod"))
}
