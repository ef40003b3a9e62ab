//! Blocking work, away from the tokio workers.

use std::{fs, path::Path};

use holdfast_sys::failpoint;

use super::Error;

/// Runs `work` on the blocking pool. The program aborts on panic, so a lost task means that the pool is shutting
/// down; the answer then never matters.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(_) => std::future::pending().await,
    }
}

/// mkdir -p with a mode for the last component.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    failpoint::at("runtime.directory.make")
        .and_then(|()| fs::DirBuilder::new().recursive(true).mode(mode).create(path))
        .map_err(|source| Error::Io { operation: "make directory", path: path.to_owned(), source })
}

/// Removes a tree; not being there is success. Symbolic links are removed, never followed.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = failpoint::at("runtime.directory.remove").and_then(|()| holdfast_tree::remove(path));
    removed.map_err(|source| Error::Io { operation: "remove", path: path.to_owned(), source })
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}
