//! Reading and merging the files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::Config;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/holdfast/config.toml";

/// Largest file in bytes; a configuration is a page or two.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read, or one that was named is not there.
    #[error("read configuration {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not a configuration.
    #[error("{}:{line}: {problem}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Which line of it, from 1.
        line: usize,
        /// What is wrong there; names the key.
        problem: String,
    },
}

impl Config {
    /// The effective configuration: defaults, then `named` (which must be there) or the default file (which may be
    /// absent), then the files of `conf.d` beside it.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let mut merged = Table::new();
        match read(path) {
            Err(ConfigError::Read { source, .. })
                if named.is_none() && source.kind() == io::ErrorKind::NotFound => {}
            text => merge(&mut merged, parse(path, &text?)?),
        }
        for drop_in in drop_ins(path)? {
            merge(&mut merged, parse(&drop_in, &read(&drop_in)?)?);
        }
        // Every part was accepted, and the parts do not constrain each other: only a bug of ours fails here.
        Value::Table(merged).try_into().map_err(|error: toml::de::Error| ConfigError::Content {
            path: path.to_owned(),
            line: 0,
            problem: error.message().to_owned(),
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has {size} bytes, the most is {MAX_FILE}"))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The table of one file, which must be a configuration by itself.
fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    toml::from_str::<Config>(text).and_then(|_| text.parse::<Table>()).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        ConfigError::Content {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            problem: problem(text, before, error.message()),
        }
    })
}

/// serde's message names a key that is unknown, but not the key of a bad value: that one stands in the line.
fn problem(text: &str, before: &str, message: &str) -> String {
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) if !message.starts_with("unknown field") => format!("{}: {message}", key.trim()),
        _ => message.to_owned(),
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// `conf.d/*.toml` beside the file, by name. No directory is no drop-in.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.parent().unwrap_or(Path::new("/")).join("conf.d");
    let failed = |source| ConfigError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    fn load(files: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Config::load(Some(&dir.path().join("config.toml")))
            .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(load(&[("config.toml", "")]).unwrap(), Config::default());
    }

    #[test]
    fn drop_ins_are_merged_in_the_order_of_their_names() {
        let config = load(&[
            ("config.toml", "log_level = \"warn\"\nroot = \"/a\"\n[image]\nprogress_timeout_s = 5\n"),
            ("conf.d/20-b.toml", "root = \"/c\"\n[image]\nmax_parallel_downloads = 9\n"),
            ("conf.d/10-a.toml", "root = \"/b\"\n"),
            ("conf.d/30-c.toml.bak", "root = \"/d\"\n"),
        ])
        .unwrap();
        assert_eq!((config.root.to_str().unwrap(), config.log_level), ("/c", LogLevel::Warn));
        assert_eq!((config.image.progress_timeout_s, config.image.max_parallel_downloads), (5, 9));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Config::load(Some(Path::new("/nonexistent/holdfast.toml"))).unwrap_err();
        assert_eq!(error.to_string(), "read configuration \"/nonexistent/holdfast.toml\"");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("rood = \"/x\"", "config.toml:1: unknown field `rood`, expected one of"),
            ("\n\n[image]\nparallel = 3", "config.toml:4: unknown field `parallel`, expected one of"),
            (
                "[network.embeded]\n",
                "config.toml:1: unknown field `embeded`, expected one of `mode`, `cni`, `embedded`",
            ),
            ("# one\nroot = \"x\"", "config.toml:2: root: \"x\" is not an absolute path"),
            ("root = 3", "config.toml:1: root: invalid type: integer"),
            ("log_level = \"loud\"", "config.toml:1: log_level: unknown variant `loud`, expected one of"),
            (
                "listen = \"tcp://1.2.3.4\"",
                "config.toml:1: listen: \"tcp://1.2.3.4\" is not of the form unix://",
            ),
            ("listen_mode = \"0888\"", "config.toml:1: listen_mode: \"0888\" is not an octal mode"),
            ("listen_mode = \"1777\"", "config.toml:1: listen_mode: \"1777\" is above 0777"),
            ("[image]\nmax_parallel_downloads = 0", "config.toml:2: max_parallel_downloads: 0 is too small"),
            (
                "[runtime]\ndefault_ulimits = [\"x=1\"]",
                "config.toml:2: default_ulimits: \"x\" is not a resource",
            ),
            (
                "[network.embedded]\nbridge = \"a b\"",
                "config.toml:2: bridge: \"a b\" is not an interface name",
            ),
            (
                "[network.embedded]\nsubnets = [\"10.0.0.0/33\"]",
                "config.toml:2: subnets: \"10.0.0.0/33\" is not",
            ),
            ("[network.embedded]\nsubnets = []", "config.toml:2: subnets: at least one"),
            ("root = ", "config.toml:1: "),
            ("root = \"/a\"\nroot = \"/b\"", "config.toml:2: "),
        ];
        for (text, expected) in cases {
            let error = load(&[("config.toml", text)]).unwrap_err();
            assert!(error.starts_with(expected), "{error}\n!= {expected}");
        }
        let error = load(&[("config.toml", ""), ("conf.d/x.toml", "\nzzz = 1")]).unwrap_err();
        assert!(error.starts_with("conf.d/x.toml:2: unknown field `zzz`"), "{error}");
    }

    #[test]
    fn modes_are_octal_text_or_number() {
        for text in ["listen_mode = \"0660\"", "listen_mode = \"660\"", "listen_mode = 0o660"] {
            assert_eq!(load(&[("config.toml", text)]).unwrap().listen_mode, 0o660, "{text}");
        }
    }

    #[test]
    fn a_plain_path_is_a_unix_socket() {
        let config = load(&[("config.toml", "listen = \"/run/x.sock\"")]).unwrap();
        assert_eq!(
            (config.listen.as_str(), config.listen_path().to_str().unwrap()),
            ("unix:///run/x.sock", "/run/x.sock")
        );
    }
}
