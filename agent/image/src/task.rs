//! Work that goes on by itself while its caller waits, and ends when the caller goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinError};
use tracing::Instrument as _;

use crate::Error;

/// Runs a future in a task: its time-outs work even if nobody polls the caller. Dropping the caller stops it.
pub(crate) async fn run<T: Send + 'static>(
    object: &str,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::spawn(work.instrument(tracing::Span::current()));
    let _abort = Abort(task.abort_handle());
    task.await.unwrap_or_else(|error| Err(ended(error, object)))
}

/// Runs work on the blocking pool. Dropping the caller sets the flag that the work has to look at.
pub(crate) async fn run_blocking<T: Send + 'static>(
    object: &str,
    work: impl FnOnce(&AtomicBool) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let stop = Stop(Arc::default());
    let flag = Arc::clone(&stop.0);
    let span = tracing::Span::current();
    let task = tokio::task::spawn_blocking(move || span.in_scope(|| work(&flag)));
    task.await.unwrap_or_else(|error| Err(ended(error, object)))
}

/// A panic goes on in the caller; otherwise the runtime is ending.
pub(crate) fn ended(error: JoinError, object: &str) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Cancelled { object: object.to_owned() },
    }
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sets its flag when it is dropped.
pub(crate) struct Stop(pub Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
