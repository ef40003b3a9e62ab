//! The log: one line an event, to stderr.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{LogFormat, LogLevel};

/// The filter in force, to be replaced by [`set_level`].
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets the program's log up. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    init_with(level, format, "");
}

/// The same for a program that serves only itself: what its server refuses, its client tells.
pub fn init_for_client(level: LogLevel, format: LogFormat) {
    init_with(level, format, if level >= LogLevel::Debug { "" } else { ",holdfast::cri=off" });
}

/// Changes what is logged from now on, after [`init`].
pub fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(EnvFilter::new(directives(level)))
    {
        tracing::warn!(%error, "change the log level");
    }
}

fn init_with(level: LogLevel, format: LogFormat, more: &str) {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(std::io::stderr()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let stamped = !is_journal(journal.as_deref(), stderr);
    let (filter, handle) = reload::Layer::new(EnvFilter::new(directives(level) + more));
    let _ = FILTER.set(handle);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
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
