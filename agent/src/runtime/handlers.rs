//! What a RuntimeClass may name: our own stages, or another OCI runtime and what it can do.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use holdfast_pod::oci_runtime::OciRuntime;
use holdfast_spec::Features;
use serde::Deserialize;

use super::{
    Error, Runtime,
    blocking::blocking,
    command::{Command, Output},
};
use crate::config::{self, Config};

/// How long a runtime may take to say what it can do.
const FEATURES_LIMIT: Duration = Duration::from_secs(10);
/// What our own specs follow.
const OUR_VERSION: &str = "1.3.0";
/// What a runtime takes that does not say: crun before 1.9 refuses a higher one.
const LEAST_VERSION: &str = "1.0.2";

/// The handlers of the configuration; the built-in one, which has no name, is not among them.
#[derive(Debug, Default)]
pub struct Handlers(BTreeMap<String, Arc<Handler>>);

/// One of them.
#[derive(Debug)]
pub struct Handler {
    /// `None`: our own stages.
    runtime: Option<OciRuntime>,
    /// What the runtime can do, once it has said so.
    facts: Mutex<Option<Facts>>,
}

/// What a runtime says of itself (runtime-spec `features.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    oci_version: String,
    features: Features,
}

/// A handler as Status tells of it.
#[derive(Debug, Clone)]
pub struct HandlerView {
    /// Empty: the built-in one.
    pub name: String,
    /// The OCI runtime's program and state directory; `None`: our own stages.
    pub runtime: Option<OciRuntime>,
    /// What it can do, as far as it is known.
    pub features: Features,
}

impl Handlers {
    /// Those of the configuration.
    pub fn new(config: &Config, systemd: bool) -> Self {
        let one = |(name, handler): (&String, &config::Handler)| {
            let runtime = handler.program().map(|program| OciRuntime {
                program: program.to_owned(),
                root: handler.root.clone().unwrap_or_else(|| config.state.join("runtimes").join(name)),
                options: handler.options.clone(),
                oci_version: LEAST_VERSION.to_owned(),
                systemd_cgroup: systemd,
            });
            (name.clone(), Arc::new(Handler { runtime, facts: Mutex::default() }))
        };
        Self(config.runtime.handlers.iter().map(one).collect())
    }

    /// The OCI runtimes among them.
    pub fn runtimes(&self) -> impl Iterator<Item = &OciRuntime> {
        self.0.values().filter_map(|handler| handler.runtime.as_ref())
    }

    fn find(&self, name: &str) -> Result<Option<&Arc<Handler>>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        self.0.get(name).map(Some).ok_or_else(|| {
            let configured: Vec<_> = self.0.keys().map(|name| format!("{name:?}")).collect();
            Error::NoSuchHandler {
                handler: name.to_owned(),
                configured: if configured.is_empty() { "none".to_owned() } else { configured.join(", ") },
            }
        })
    }
}

impl Runtime {
    /// All handlers, the built-in one first. Without I/O.
    pub fn handlers(&self) -> Vec<HandlerView> {
        let ours = self.host.features;
        let built_in = HandlerView { name: String::new(), runtime: None, features: ours };
        let live = self.live.get();
        let others = live.handlers.0.iter().map(|(name, handler)| HandlerView {
            name: name.clone(),
            features: handler.features(ours),
            runtime: handler.runtime.clone(),
        });
        std::iter::once(built_in).chain(others).collect()
    }

    /// Asks every OCI runtime what it can do, so that Status knows it. Nobody waits for it.
    pub(super) fn ask_runtimes(&self) {
        for (name, handler) in &self.live.get().handlers.0 {
            let (name, handler) = (name.clone(), handler.clone());
            if handler.runtime.is_none() {
                continue;
            }
            tokio::spawn(async move {
                if let Err(error) = handler.ask().await {
                    tracing::warn!(handler = name, error = %error.chain(), "a runtime handler cannot be used yet");
                }
            });
        }
    }

    /// The OCI runtime of a handler, ready to be used; `None` for our own stages.
    pub(super) async fn runtime_of(&self, handler: &str) -> Result<Option<(OciRuntime, Features)>, Error> {
        let Some(handler) = self.live.get().handlers.find(handler)?.cloned() else { return Ok(None) };
        let Some(runtime) = &handler.runtime else { return Ok(None) };
        handler.ask().await?;
        let facts = handler.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let oci_version = facts.map_or_else(|| LEAST_VERSION.to_owned(), |facts| facts.oci_version);
        let features = handler.features(self.host.features);
        Ok(Some((OciRuntime { oci_version, ..runtime.clone() }, features)))
    }
}

impl Handler {
    /// What both the node and the runtime can do.
    fn features(&self, node: Features) -> Features {
        if self.runtime.is_none() {
            return node;
        }
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = facts.as_ref().map_or_else(none, |facts| facts.features);
        Features {
            recursive_read_only_mounts: node.recursive_read_only_mounts && own.recursive_read_only_mounts,
            user_namespaces: node.user_namespaces && own.user_namespaces,
        }
    }

    /// Looks whether the program is there, and asks it once.
    async fn ask(&self) -> Result<(), Error> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let program = runtime.program.clone();
        if !blocking(move || is_program(&program)).await {
            return Err(Error::NoSuchRuntime { program: runtime.program.clone() });
        }
        if self.facts.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let command =
            Command { args: vec!["features".into()], ..Command::new(&runtime.program, FEATURES_LIMIT) };
        let facts = match command.run().await {
            Ok(Output { success: true, stdout, .. }) => read(&stdout),
            // Older ones have no such command: what they can do is not known, and not told.
            Ok(_) => Facts { oci_version: LEAST_VERSION.to_owned(), features: none() },
            Err(source) => return Err(Error::OciRuntime { operation: "ask for the features of", source }),
        };
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts);
        Ok(())
    }
}

fn none() -> Features {
    Features { recursive_read_only_mounts: false, user_namespaces: false }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Reads what `features` prints. What is not there counts as not possible.
fn read(json: &[u8]) -> Facts {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Document {
        oci_version_max: String,
        mount_options: Vec<String>,
        linux: Linux,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Linux {
        namespaces: Vec<String>,
        mount_extensions: MountExtensions,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct MountExtensions {
        idmap: IdMap,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct IdMap {
        enabled: Option<bool>,
    }
    let document: Document = serde_json::from_slice(json).unwrap_or_default();
    let has = |list: &[String], word: &str| list.iter().any(|one| one == word);
    Facts {
        oci_version: lower(&document.oci_version_max, OUR_VERSION),
        features: Features {
            recursive_read_only_mounts: has(&document.mount_options, "rro"),
            user_namespaces: has(&document.linux.namespaces, "user")
                && document.linux.mount_extensions.idmap.enabled == Some(true),
        },
    }
}

/// The lower of two versions; a suffix such as `-dev` does not count. What is no version is the least.
fn lower(one: &str, other: &str) -> String {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    match (numbers(one), numbers(other)) {
        (Some(a), Some(b)) if a <= b => one.to_owned(),
        (Some(_), Some(_)) => other.to_owned(),
        _ => LEAST_VERSION.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_is_what_is_told() {
        let all = read(
            br#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1","mountOptions":["ro","rro"],
                "linux":{"namespaces":["user","pid"],"mountExtensions":{"idmap":{"enabled":true}}}}"#,
        );
        assert_eq!(all.oci_version, "1.2.1");
        assert!(all.features.recursive_read_only_mounts && all.features.user_namespaces);
        let some = read(
            br#"{"ociVersionMax":"9.0.0","mountOptions":["ro"],"linux":{"namespaces":["user"]},"hooks":[]}"#,
        );
        assert_eq!((some.oci_version.as_str(), some.features), (OUR_VERSION, none()));
        assert_eq!(read(b"no json"), Facts { oci_version: LEAST_VERSION.to_owned(), features: none() });
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(lower("1.10.0", "1.3.0"), "1.3.0");
        assert_eq!(lower("1.0.2-dev", "1.3.0"), "1.0.2-dev");
        assert_eq!(lower("", "1.3.0"), LEAST_VERSION);
    }

    #[test]
    fn an_unknown_handler_is_named_with_those_that_are_known() {
        let mut config = Config::default();
        config.runtime.handlers.insert("runc".into(), config::Handler::default());
        let handlers = Handlers::new(&config, false);
        assert!(matches!(handlers.find(""), Ok(None)));
        assert!(matches!(handlers.find("runc"), Ok(Some(_))));
        let text = handlers.find("kata").map_or_else(|error| error.to_string(), |_| String::new());
        assert!(text.contains("\"kata\"") && text.contains("\"runc\""), "{text}");
    }
}
