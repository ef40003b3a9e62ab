//! SIGHUP: the configuration is read again, and what can change in a running agent changes.

use std::path::PathBuf;

use toml::{Table, Value};

use super::systemd;
use crate::{
    config::{Config, ConfigError, LogLevel},
    logging,
    runtime::Runtime,
};

/// Where the configuration comes from, to read it again.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--log-level`, which wins over the files.
    pub log_level: Option<LogLevel>,
}

impl Source {
    /// The effective configuration as it is now. Blocking.
    ///
    /// # Errors
    /// A file that cannot be read or has a mistake.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.file.as_deref())?;
        config.log_level = self.log_level.unwrap_or(config.log_level);
        Ok(config)
    }
}

/// Keys and tables that take effect at a reload; all others do at the next start.
const RELOADABLE: &[&str] = &[
    "log_level",
    "image",
    "cdi",
    "runtime.default_ulimits",
    "runtime.pids_limit",
    "runtime.enable_unprivileged_ports",
    "runtime.enable_unprivileged_icmp",
    "runtime.device_ownership_from_security_context",
    "runtime.hooks_dirs",
    "runtime.handlers",
];

/// Reads the configuration again and puts it into force. A mistake in it changes nothing.
pub async fn reload(
    source: &Source,
    started_with: &Config,
    runtime: &Runtime,
    streaming: &holdfast_streaming::Server,
) {
    systemd::reloading();
    let (from, server) = (source.clone(), streaming.clone());
    let read = tokio::task::spawn_blocking(move || {
        let config = from.load().map_err(|error| holdfast_model::chain(&error))?;
        server.reload_certificate().map_err(|error| holdfast_model::chain(&error))?;
        Ok::<_, String>(config)
    });
    match read.await {
        Ok(Ok(config)) => {
            logging::set_level(config.log_level);
            let later = changed(started_with, &config).into_iter().filter(|key| !is_reloadable(key));
            let later: Vec<String> = later.collect();
            runtime.reload(&config);
            if later.is_empty() {
                tracing::info!("configuration reloaded");
            } else {
                let keys = later.join(", ");
                tracing::warn!(keys, "configuration reloaded, but for keys that need a restart");
            }
        }
        Ok(Err(error)) => tracing::error!(error, "reload: the configuration before stays in force"),
        // The runtime is shutting down.
        Err(_) => {}
    }
    systemd::ready();
}

fn is_reloadable(key: &str) -> bool {
    RELOADABLE
        .iter()
        .any(|prefix| key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Keys whose values differ, with their tables: `runtime.pids_limit`.
fn changed(before: &Config, after: &Config) -> Vec<String> {
    let table = |config: &Config| Table::try_from(config).unwrap_or_default();
    let mut keys = Vec::new();
    compare("", &table(before), &table(after), &mut keys);
    keys
}

fn compare(prefix: &str, before: &Table, after: &Table, keys: &mut Vec<String>) {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (before.get(name), after.get(name)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => compare(&key, before, after, keys),
            (before, after) if before != after => keys.push(key),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_with_their_tables() {
        let before = Config::default();
        let mut after = Config { log_level: LogLevel::Debug, root: "/x".into(), ..Config::default() };
        after.runtime.pids_limit = Some(7);
        after.image.max_parallel_downloads = 9;
        after.network.embedded.mtu = Some(1400);
        after.runtime.handlers.insert("runc".into(), crate::config::Handler::default());
        let keys = changed(&before, &after);
        assert_eq!(
            keys,
            [
                "image.max_parallel_downloads",
                "log_level",
                "network.embedded.mtu",
                "root",
                "runtime.handlers.runc",
                "runtime.pids_limit"
            ]
        );
        let later: Vec<_> = keys.iter().filter(|key| !is_reloadable(key)).collect();
        assert_eq!(later, ["network.embedded.mtu", "root"]);
        assert!(changed(&before, &before).is_empty());
    }

    #[test]
    fn every_reloadable_key_is_a_key() {
        let table = Table::try_from(Config::default()).unwrap();
        for key in RELOADABLE.iter().filter(|key| **key != "runtime.pids_limit") {
            let mut parts = key.split('.');
            let first = table.get(parts.next().unwrap());
            assert!(
                parts.fold(first, |value, part| value.and_then(|value| value.get(part))).is_some(),
                "{key}"
            );
        }
    }
}
