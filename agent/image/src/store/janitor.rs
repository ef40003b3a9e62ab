//! Takes away what is thrown away: work directories move into the trash at once, the trash is emptied behind them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use holdfast_sys::failpoint;
use rustix::fs::{self, AtFlags};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::facts;
use crate::error::is_full;
use crate::unpack::move_into;

/// The directories that are emptied.
#[derive(Debug)]
pub(super) struct Bins {
    pub work: OwnedFd,
    pub trash: OwnedFd,
}

impl Bins {
    /// Moves a directory into the trash; not being there is success. A full disk may have no room for another name: then the
    /// directory is emptied where it is, which takes as long as it takes. Blocking.
    pub(super) fn take(&self, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let moved = failpoint::at("image.trash.rename")
            .and_then(|()| Ok(move_into(directory, name.as_bytes(), self.trash.as_fd())?));
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if is_full(&error) => {
                // First what makes it a layer: half of one must never be taken for a whole.
                match fs::unlinkat(directory, format!("{name}/{}", facts::FILE), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                failpoint::at("image.tree.remove")?;
                holdfast_tree::remove_at(directory, Path::new(name))
            }
            other => other,
        }
    }
}

enum Job {
    /// `work/<name>` is no longer wanted.
    Discard(String),
    /// Something was moved into the trash.
    Empty,
    /// Tell when all jobs before this one have left the work directory.
    Settle(oneshot::Sender<()>),
}

/// Gives jobs to the janitor's tasks, which end with the last of their senders. What they have not done by then, the
/// next open of the store does.
#[derive(Debug, Clone)]
pub(super) struct Janitor {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Janitor {
    /// Starts the tasks. One job for each work directory at most, so the queue needs no limit of its own.
    pub(super) fn start(bins: Arc<Bins>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (wake, woken) = mpsc::channel(1);
        tokio::spawn(move_out(queue, Arc::clone(&bins), wake));
        tokio::spawn(empty_trash(woken, bins));
        Self { jobs }
    }

    /// Never blocks: callers may be destructors on a tokio worker.
    pub(super) fn discard(&self, name: String) {
        let _ = self.jobs.send(Job::Discard(name));
    }

    pub(super) fn empty(&self) {
        let _ = self.jobs.send(Job::Empty);
    }

    /// Waits until what was discarded so far has left the work directory.
    pub(super) async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        if self.jobs.send(Job::Settle(done)).is_ok() {
            let _ = tokio::time::timeout(crate::blocking::DISK_LIMIT, settled).await;
        }
    }
}

async fn move_out(mut queue: mpsc::UnboundedReceiver<Job>, bins: Arc<Bins>, wake: mpsc::Sender<()>) {
    while let Some(job) = queue.recv().await {
        let (mut names, mut waiting) = (Vec::new(), Vec::new());
        let mut next = Some(job);
        while let Some(job) = next {
            match job {
                Job::Discard(name) => names.push(name),
                Job::Empty => {}
                Job::Settle(done) => waiting.push(done),
            }
            next = queue.try_recv().ok();
        }
        let bins = Arc::clone(&bins);
        let moved = tokio::task::spawn_blocking(move || {
            for name in names {
                if let Err(error) = bins.take(bins.work.as_fd(), &name) {
                    tracing::warn!(name, %error, "a work directory of the image store stays until the next start");
                }
            }
        });
        let _ = moved.await;
        for done in waiting {
            let _ = done.send(());
        }
        // Full: the other task is awake already and looks again after it was told.
        let _ = wake.try_send(());
    }
}

async fn empty_trash(mut woken: mpsc::Receiver<()>, bins: Arc<Bins>) {
    while woken.recv().await.is_some() {
        let bins = Arc::clone(&bins);
        let emptied = tokio::task::spawn_blocking(move || {
            failpoint::at("image.trash.empty")?;
            holdfast_tree::empty(&bins.trash)
        });
        if let Ok(Err(error)) = emptied.await {
            tracing::warn!(%error, "the trash of the image store cannot be emptied");
        }
    }
}
