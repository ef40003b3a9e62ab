//! The log: one line an event, to stderr.

use std::{io::IsTerminal, sync::OnceLock, time::Duration};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, MakeWriter, writer::BoxMakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogLevel};

/// The filter in force, to be replaced by [`set_level`].
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Lines that wait to be written while stderr takes none.
const WAITING_LINES: usize = 4096;
/// Between two looks whether lines were lost.
const LOSS_PERIOD: Duration = Duration::from_mins(1);

/// Sets the program's log up. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    init_with(level, format, "", std::io::stderr);
}

/// The log of a daemon: lines are written by a thread of their own, so that a journald that takes none (it is stopped, or its disk is
/// full) stops nothing else. What waits is bounded, and later lines are lost. What is returned waits for the last lines, for a second
/// at most, when it is dropped.
pub fn init_for_daemon(level: LogLevel, format: LogFormat) -> (WorkerGuard, Losses) {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES);
    let (writer, guard) = builder.thread_name("log").finish(std::io::stderr());
    let losses = Losses(writer.error_counter());
    init_with(level, format, "", writer);
    (guard, losses)
}

/// Counts lines that were lost.
#[derive(Debug, Clone)]
pub struct Losses(ErrorCounter);

impl Losses {
    /// Logs how many lines were lost, whenever some were. Never ends.
    pub async fn report(self) {
        let mut known = 0;
        loop {
            tokio::time::sleep(LOSS_PERIOD).await;
            let lost = self.0.dropped_lines();
            if lost > known {
                tracing::warn!(lines = lost - known, "log lines were lost: stderr did not take them in time");
                known = lost;
            }
        }
    }
}

/// The same for a program that serves only itself: what its server refuses, its client tells.
pub fn init_for_client(level: LogLevel, format: LogFormat) {
    let more = if level >= LogLevel::Debug { "" } else { ",holdfast::cri=off" };
    init_with(level, format, more, std::io::stderr);
}

/// Changes what is logged from now on, after [`init`].
pub fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(EnvFilter::new(directives(level)))
    {
        tracing::warn!(%error, "change the log level");
    }
}

fn init_with<W>(level: LogLevel, format: LogFormat, more: &str, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(std::io::stderr()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let stamped = !is_journal(journal.as_deref(), stderr);
    let (filter, handle) = reload::Layer::new(EnvFilter::new(directives(level) + more));
    let _ = FILTER.set(handle);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(BoxMakeWriter::new(writer));
    // Whether an outer program has set a subscriber before does not matter to anybody.
    let _ = match (format, stamped) {
        (LogFormat::Json, _) => registry.with(lines.json().flatten_event(true)).try_init(),
        (LogFormat::Text, true) => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        (LogFormat::Text, false) => registry.with(lines.with_ansi(false).without_time()).try_init(),
    };
}

/// Our own events at the level; the libraries' wire noise only when everything is wanted.
fn directives(level: LogLevel) -> String {
    let word = level.as_str();
    match level {
        LogLevel::Debug => {
            format!("{word},h2=info,hyper=info,hyper_util=info,rustls=info,tower=info,zbus=info")
        }
        _ => word.to_owned(),
    }
}

/// systemd.exec(5): JOURNAL_STREAM holds device and inode of the stream that goes to the journal. A program started
/// by the service with its stderr elsewhere has the variable as well, so both are compared.
fn is_journal(variable: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let stream = variable.and_then(|text| text.split_once(':'));
    let stream = stream.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    stream.is_some() && stream == stderr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let (device, inode) = (26, 4711);
        let stderr = Some((device, inode));
        assert!(is_journal(Some(&format!("{device}:{inode}")), stderr));
        for other in [None, Some(""), Some("1"), Some("a:b"), Some(&*format!("{device}:{}", inode + 1))] {
            assert!(!is_journal(other, stderr), "{other:?}");
        }
        assert!(!is_journal(Some("a:b"), None));
    }

    #[test]
    fn every_level_is_a_filter() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace] {
            assert!(EnvFilter::try_new(directives(level)).is_ok(), "{level:?}");
        }
    }
}
