//! What systemd is told (sd_notify(3)), where it asks for it.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::runtime::Runtime;

/// Time that a start asks for at a time, and how often it asks: a start that goes on is not killed, one that hangs is.
const EXTENSION: Duration = Duration::from_mins(1);
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// The agent serves.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The agent is about to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    // systemd 253 and newer want the time as well (sd_notify(3), RELOADING=1).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "read the monotonic clock"),
    }
}

/// Asks for more time while `start` is under way.
pub async fn extending<T>(mut start: impl Future<Output = T> + Unpin) -> T {
    loop {
        if let Ok(started) = tokio::time::timeout(EXTEND_EVERY, &mut start).await {
            return started;
        }
        notify(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
    }
}

/// With `WatchdogSec=` in the unit: tells systemd as long as the agent can still do something.
pub fn watch(runtime: &Runtime) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let runtime = runtime.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(limit / 3).await;
            if alive(&runtime, limit / 3).await {
                notify(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("the agent stands still: systemd's watchdog will restart it");
            }
        }
    });
}

/// Whether a task of the runtime's gets a worker and the locks that every request takes. A disk that hangs is no reason
/// for a restart: that cannot help.
async fn alive(runtime: &Runtime, limit: Duration) -> bool {
    let runtime = runtime.clone();
    let task = tokio::spawn(async move { runtime.answers() });
    tokio::time::timeout(limit, task).await.is_ok()
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, ?state, "notify systemd");
    }
}
