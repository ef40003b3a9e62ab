//! `[runtime.handlers.NAME]`: what a RuntimeClass may name.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::form;

/// The `runtime` that means our own stages.
pub const BUILT_IN: &str = "holdfast";
/// Longest name, as Kubernetes has it for a RuntimeClass's handler (a DNS label).
const NAME_MAX: usize = 63;

/// Names and what they stand for.
pub type Handlers = BTreeMap<String, Handler>;

/// One handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// Path of an OCI runtime, or `holdfast`; `None`: the same.
    #[serde(deserialize_with = "runtime", skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Options that stand before each of its commands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Where it keeps its state; `None`: below ours.
    #[serde(deserialize_with = "form::optional_path", skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
}

impl Handler {
    /// The OCI runtime's program; `None`: our own stages.
    pub fn program(&self) -> Option<&Path> {
        self.runtime.as_deref().filter(|runtime| *runtime != BUILT_IN).map(Path::new)
    }
}

fn runtime<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text != BUILT_IN && !Path::new(&text).is_absolute() {
        return Err(D::Error::custom(format_args!(
            "\"{text}\" is neither the absolute path of an OCI runtime nor \"{BUILT_IN}\""
        )));
    }
    Ok(Some(text))
}

pub(super) fn named<'de, D: Deserializer<'de>>(from: D) -> Result<Handlers, D::Error> {
    let handlers = Handlers::deserialize(from)?;
    for name in handlers.keys() {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = name.starts_with('-') || name.ends_with('-');
        if name.is_empty() || name.len() > NAME_MAX || edge || !name.chars().all(known) {
            return Err(D::Error::custom(format_args!(
                "\"{name}\" is no handler's name of 1 to {NAME_MAX} lower-case letters, digits and '-'"
            )));
        }
    }
    Ok(handlers)
}

/// As commented TOML.
pub(super) fn show(handlers: &Handlers) -> String {
    let mut text = "\n\
        # Handlers of RuntimeClasses, a table for each. runtime: the path of an OCI runtime (runc, crun, youki ...), or\n\
        # \"holdfast\" for the built-in one, which is also what pods without a RuntimeClass have. options: stand before\n\
        # each of its commands. root: where it keeps its state; not set: runtimes/NAME in the state directory.\n"
        .to_owned();
    if handlers.is_empty() {
        text.push_str(
            "#[runtime.handlers.runc]\n#runtime = \"/usr/bin/runc\"\n#options = []\n#root = \"/run/runc\"\n",
        );
    }
    for (name, handler) in handlers {
        let _ = writeln!(text, "[runtime.handlers.{name}]");
        // Strings and lists of them always have a form in TOML.
        text.push_str(&toml::to_string(handler).unwrap_or_default());
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_handler_is_our_own_or_a_program() {
        let config = parse(
            "[runtime.handlers.runc]\nruntime = \"/usr/bin/runc\"\noptions = [\"--debug\"]\nroot = \"/run/runc\"\n\
             [runtime.handlers.plain]\n[runtime.handlers.own]\nruntime = \"holdfast\"\n",
        )
        .unwrap();
        let handlers = &config.runtime.handlers;
        assert_eq!(handlers["runc"].program(), Some(Path::new("/usr/bin/runc")));
        assert_eq!((handlers["plain"].program(), handlers["own"].program()), (None, None));
        assert_eq!(toml::from_str::<Config>(&config.to_commented_toml()).unwrap(), config);
    }

    #[test]
    fn what_cannot_be_a_handler_is_refused() {
        for (text, word) in [
            ("[runtime.handlers.runc]\nruntime = \"runc\"\n", "absolute"),
            ("[runtime.handlers.runc]\nroot = \"x\"\n", "absolute"),
            ("[runtime.handlers.runc]\nprogram = \"/x\"\n", "unknown field"),
            ("[runtime.handlers.\"\"]\n", "name"),
            ("[runtime.handlers.\"../x\"]\n", "name"),
            ("[runtime.handlers.A]\n", "name"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
