//! Group commit: files are made durable by one thread, as many at a time as came in the meantime.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use holdfast_sys::failpoint;
use tokio::sync::oneshot;

/// How long changes are gathered before a commit that nobody waits for.
const WINDOW: Duration = Duration::from_millis(200);
/// Directories above a file that are made durable with it: its own, which may be new, and that one's parent.
const LEVELS: usize = 2;

/// Makes files durable in the background. Clones share one thread, which ends with the last of them, when all is done.
#[derive(Debug, Clone)]
pub struct Durable(Arc<Owner>);

#[derive(Debug)]
struct Owner(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    files: BTreeSet<PathBuf>,
    waiting: Vec<oneshot::Sender<io::Result<()>>>,
    closed: bool,
}

impl Durable {
    /// Starts the thread.
    ///
    /// # Errors
    /// That of clone(2).
    pub fn start() -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let of_thread = queue.clone();
        thread::Builder::new().name("durable".to_owned()).spawn(move || run(&of_thread))?;
        Ok(Self(Arc::new(Owner(queue))))
    }

    /// Makes `path` durable some time soon, as it is then. One that is gone by then needs nothing. Never blocks.
    pub fn later(&self, path: PathBuf) {
        let queue = &self.0.0;
        let mut pending = queue.lock();
        if pending.files.insert(path) && pending.files.len() == 1 {
            queue.changed.notify_one();
        }
    }

    /// Makes `path`, and all that [`Durable::later`] was told before, durable now, and waits for it.
    ///
    /// # Errors
    /// The first of open(2) and fsync(2), of any file of the same commit.
    pub async fn settle(&self, path: PathBuf) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        {
            let mut pending = self.0.0.lock();
            pending.files.insert(path);
            pending.waiting.push(sender);
        }
        self.0.0.changed.notify_one();
        done.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next commit is of, when it is due; `None` at the end.
    fn next(&self) -> Option<Pending> {
        let idle = |pending: &mut Pending| pending.files.is_empty() && !pending.closed;
        let pending = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let nobody_waits = |pending: &mut Pending| pending.waiting.is_empty() && !pending.closed;
        let (mut pending, _) = self
            .changed
            .wait_timeout_while(pending, WINDOW, nobody_waits)
            .unwrap_or_else(PoisonError::into_inner);
        if pending.files.is_empty() && pending.closed {
            return None;
        }
        let closed = pending.closed;
        Some(std::mem::replace(&mut *pending, Pending { closed, ..Pending::default() }))
    }
}

fn run(queue: &Queue) {
    while let Some(Pending { files, waiting, .. }) = queue.next() {
        let begin = Instant::now();
        let result = commit(&files);
        if let Err(error) = &result {
            tracing::warn!(files = files.len(), %error, "records are not durable: a power cut may lose them");
        } else {
            tracing::trace!(files = files.len(), ms = begin.elapsed().as_millis(), "records are durable");
        }
        for waiting in waiting {
            let _ = waiting.send(
                result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string())),
            );
        }
    }
}

/// Files first: a name that is durable must not lead to content that is not.
fn commit(files: &BTreeSet<PathBuf>) -> io::Result<()> {
    let mut result = Ok(());
    let mut directories: Vec<BTreeSet<&Path>> = vec![BTreeSet::new(); LEVELS];
    for file in files {
        result = result.and(sync(file));
        for (level, directory) in directories.iter_mut().zip(file.ancestors().skip(1)) {
            level.insert(directory);
        }
    }
    for directory in directories.into_iter().flatten() {
        result = result.and(sync(directory));
    }
    result
}

/// Something that is gone has nothing to keep.
fn sync(path: &Path) -> io::Result<()> {
    failpoint::at("record.fsync")?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    match opened.and_then(|file| file.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            other.map_err(|error| io::Error::new(error.kind(), format!("fsync {}: {error}", path.display())))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn what_is_settled_is_committed_with_all_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::start().unwrap();
        let object = dir.path().join("object");
        fs::create_dir(&object).unwrap();
        for name in ["a", "b"] {
            fs::write(object.join(name), name).unwrap();
            durable.later(object.join(name));
        }
        durable.later(dir.path().join("gone/record"));
        durable.settle(object.join("a")).await.unwrap();
        assert!(durable.0.0.lock().files.is_empty());
    }

    #[tokio::test]
    async fn an_error_reaches_whoever_waits_and_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::start().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        let error = durable.settle(dir.path().join("link")).await.unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        fs::write(dir.path().join("file"), "").unwrap();
        durable.settle(dir.path().join("file")).await.unwrap();
    }

    #[test]
    fn the_thread_ends_with_the_last_owner_after_its_work() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::start().unwrap();
        let queue = durable.0.0.clone();
        durable.later(dir.path().join("file"));
        drop(durable.clone());
        drop(durable);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&queue) > 1 {
            assert!(Instant::now() < deadline, "the thread goes on");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(queue.lock().files.is_empty());
    }
}
