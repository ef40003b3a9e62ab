//! Blocking work, away from the tokio workers, with a limit on the wait for it.

use std::time::Duration;

use crate::Error;
use crate::task::ended;

/// A disk that takes nothing for so long is stuck.
pub(crate) const DISK_LIMIT: Duration = Duration::from_mins(10);

/// Runs `work` on the blocking pool. `object` and `stage` name it when the disk hangs; the work itself then goes on.
pub(crate) async fn blocking<T: Send + 'static>(
    object: &str,
    stage: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::time::timeout(DISK_LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(ended(error, object)),
        Err(_) => Err(stalled(object, stage)),
    }
}

/// A place at which tests make the store fail or end, see `holdfast_sys::failpoint`. Blocking code only: it may stall.
pub(crate) fn failpoint(name: &'static str) -> Result<(), Error> {
    holdfast_sys::failpoint::at(name).map_err(|source| Error::io(name, source))
}

/// The disk takes too long.
pub(crate) fn stalled(object: &str, stage: &str) -> Error {
    Error::Stalled { object: object.to_owned(), stage: stage.to_owned(), timeout: DISK_LIMIT }
}
