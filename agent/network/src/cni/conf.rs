//! Reading CNI configurations as libcni does (CNI specification, section 1).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::{Map, Value, json};

use crate::Error;

/// Versions of the specification whose results and errors are understood here, the newest last.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Larger files are not configurations.
const MOST_BYTES: u64 = 1 << 20;

/// A configuration list, ready for use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConfList {
    /// Where it came from.
    pub(crate) file: PathBuf,
    /// The list as it was read; a single configuration is wrapped into a list.
    pub(crate) raw: Value,
    pub(crate) name: String,
    /// The version that is spoken with the plugins.
    pub(crate) version: &'static str,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// `loadOnlyInlinedPlugins`: the folder of the network's name counts for nothing.
    pub(crate) only_inlined: bool,
    pub(crate) plugins: Vec<PluginConf>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PluginConf {
    /// `type`: the name of its program.
    pub(crate) kind: String,
    /// Names of the capabilities that are `true`.
    pub(crate) capabilities: Vec<String>,
    /// Its configuration without `capabilities`, which plugins do not get to see.
    pub(crate) conf: Map<String, Value>,
}

/// Path, time of change and size of each file: when one differs, they are read again.
pub(crate) type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// Extensions of configurations (libcni).
const LISTS: [&str; 3] = ["conf", "conflist", "json"];
/// Extension of the plugins' files in the folder of a network (CNI specification 1.1).
const FOLDED: [&str; 1] = ["conf"];

/// Files that may be configurations, by name.
pub(crate) fn fingerprint(dir: &Path) -> Result<Fingerprint, Error> {
    files(dir, &LISTS)
}

/// Plugins of a list that stand in files of their own: in the folder of the network's name beside the list.
pub(crate) fn folder(list: &ConfList) -> Result<Fingerprint, Error> {
    match list.file.parent() {
        Some(dir) if !list.only_inlined => files(&dir.join(&list.name), &FOLDED),
        _ => Ok(Vec::new()),
    }
}

fn files(dir: &Path, extensions: &[&str]) -> Result<Fingerprint, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io(format!("read {}", dir.display()))(error)),
    };
    let mut files = Fingerprint::new();
    for entry in entries {
        let path = entry.map_err(Error::io(format!("read {}", dir.display())))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.extend(look(path)?);
        }
    }
    files.sort();
    Ok(files)
}

/// Follows links: configurations are often mounted by way of them. One that leads nowhere is no configuration; any other
/// failure is an error, or the next file, another network, would count.
fn look(path: PathBuf) -> Result<Option<(PathBuf, Option<SystemTime>, u64)>, Error> {
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(None),
        Ok(metadata) => Ok(Some((path, metadata.modified().ok(), metadata.len()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("look at {}", path.display()))(error)),
    }
}

/// Reads the first of the files, without what its network's folder holds.
pub(crate) fn read(files: &Fingerprint) -> Result<Option<ConfList>, Error> {
    let Some((path, _, size)) = files.first() else { return Ok(None) };
    parse_file(path, &content(path, *size)?).map(Some)
}

/// The list with the plugins of its network's folder at its end. From then on all of them stand in the list.
pub(crate) fn with_folder(list: ConfList, folder: &Fingerprint) -> Result<ConfList, Error> {
    if folder.is_empty() {
        let missing = list.plugins.is_empty().then(|| bad(&list.file, "plugins is missing or empty"));
        return missing.map_or(Ok(list), Err);
    }
    let mut raw = list.raw;
    for (path, _, size) in folder {
        let value: Value = serde_json::from_slice(&content(path, *size)?)
            .map_err(|error| bad(path, &format!("is not JSON: {error}")))?;
        parse_plugin(path, 0, &value)?;
        match raw["plugins"].as_array_mut() {
            Some(plugins) => plugins.push(value),
            None => raw["plugins"] = json!([value]),
        }
    }
    raw["loadOnlyInlinedPlugins"] = json!(true);
    parse_list(&list.file, raw)
}

fn content(path: &Path, size: u64) -> Result<Vec<u8>, Error> {
    if size > MOST_BYTES {
        return Err(bad(path, "is larger than 1 MiB"));
    }
    fs::read(path).map_err(Error::io(format!("read {}", path.display())))
}

/// A `.conflist` holds a list, `.conf` and `.json` hold one plugin's configuration.
pub(crate) fn parse_file(path: &Path, bytes: &[u8]) -> Result<ConfList, Error> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| bad(path, &format!("is not JSON: {error}")))?;
    let list = path.extension().is_some_and(|extension| extension == "conflist");
    if list {
        return parse_list(path, value);
    }
    if value.get("plugins").is_some() {
        return Err(bad(path, "holds a list of plugins: give it the extension .conflist"));
    }
    if value.get("type").is_none() {
        return Err(bad(path, "type is missing"));
    }
    let mut raw = Map::new();
    for key in ["cniVersion", "cniVersions", "name"] {
        if let Some(found) = value.get(key) {
            raw.insert(key.to_owned(), found.clone());
        }
    }
    raw.insert("plugins".to_owned(), Value::Array(vec![value]));
    raw.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    parse_list(path, Value::Object(raw))
}

/// A list, from a file or from a record.
pub(crate) fn parse_list(path: &Path, raw: Value) -> Result<ConfList, Error> {
    let name = match raw.get("name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(Value::String(_)) | None => return Err(bad(path, "name is missing")),
        Some(_) => return Err(bad(path, "name is not a text")),
    };
    let version = version(path, &raw)?;
    let flag = |key: &str| match raw.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        // Older lists have it as a text.
        Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
        Some(_) => Err(bad(path, &format!("{key} is neither true nor false"))),
    };
    let (disable_check, disable_gc) = (flag("disableCheck")?, flag("disableGC")?);
    let only_inlined = flag("loadOnlyInlinedPlugins")? || !is_plain(&name);
    let plugins = match raw.get("plugins") {
        Some(Value::Array(plugins)) => {
            plugins.iter().enumerate().map(|(index, plugin)| parse_plugin(path, index, plugin)).collect()
        }
        // They may stand in the folder.
        None => Ok(Vec::new()),
        Some(_) => Err(bad(path, "plugins is not a list")),
    }?;
    Ok(ConfList {
        file: path.to_owned(),
        raw,
        name,
        version,
        disable_check,
        disable_gc,
        only_inlined,
        plugins,
    })
}

/// A name as the specification wants it. Only such a one is looked for as a folder: another may lead out of the directory.
fn is_plain(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(word)
}

fn parse_plugin(path: &Path, index: usize, plugin: &Value) -> Result<PluginConf, Error> {
    let Value::Object(plugin) = plugin else {
        return Err(bad(path, &format!("plugins[{index}] is not an object")));
    };
    let kind = match plugin.get("type") {
        Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
        _ => return Err(bad(path, &format!("plugins[{index}].type is missing"))),
    };
    if kind.contains('/') || kind == "." || kind == ".." {
        return Err(bad(path, &format!("plugins[{index}].type {kind:?} is not the name of a program")));
    }
    let mut conf = plugin.clone();
    let capabilities = match conf.remove("capabilities") {
        Some(Value::Object(capabilities)) => {
            let on = capabilities.into_iter().filter(|(_, value)| *value == Value::Bool(true));
            on.map(|(name, _)| name).collect()
        }
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(bad(path, &format!("plugins[{index}].capabilities is not an object"))),
    };
    Ok(PluginConf { kind, capabilities, conf })
}

/// The newest version of `cniVersion` and `cniVersions` that is spoken here.
fn version(path: &Path, raw: &Value) -> Result<&'static str, Error> {
    let mut offered: Vec<&str> = raw.get("cniVersion").and_then(Value::as_str).into_iter().collect();
    let more = raw.get("cniVersions").and_then(Value::as_array);
    offered.extend(more.into_iter().flatten().filter_map(Value::as_str));
    let newest = VERSIONS.iter().rev().find(|version| offered.contains(*version));
    newest.copied().ok_or_else(|| {
        let offered = if offered.is_empty() { "missing".to_owned() } else { offered.join(", ") };
        bad(path, &format!("cniVersion is {offered}: 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are spoken"))
    })
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::CniConfig { file: path.to_owned(), reason: reason.to_owned() }
}

impl ConfList {
    /// Whether any of its plugins has this capability.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.iter().any(|capability| capability == name))
    }

    /// Whether STATUS and GC are of its version.
    pub(crate) fn has_status_and_gc(&self) -> bool {
        self.version == "1.1.0"
    }

    /// Whether CHECK, and the previous result for DEL, are of its version (0.4.0 and later).
    pub(crate) fn has_check(&self) -> bool {
        !self.version.starts_with("0.3.")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Result<ConfList, Error> {
        let list = parse_file(Path::new("/etc/cni/net.d/10-x.conflist"), text.as_bytes())?;
        with_folder(list, &Vec::new())
    }

    #[test]
    fn a_list_with_capabilities() {
        let parsed = list(
            r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.0.0","9.0.0"],"name":"net","disableCheck":true,
                "plugins":[{"type":"bridge","mtu":1400},{"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#,
        )
        .unwrap();
        assert_eq!((parsed.name.as_str(), parsed.version, parsed.disable_check), ("net", "1.0.0", true));
        assert_eq!(parsed.plugins[0].conf["mtu"], 1400);
        assert_eq!(parsed.plugins[1].capabilities, ["portMappings"]);
        assert!(!parsed.plugins[1].conf.contains_key("capabilities"));
        assert!(parsed.has_capability("portMappings") && !parsed.has_capability("x") && parsed.has_check());
        assert_eq!(parse_list(&parsed.file, parsed.raw.clone()).unwrap(), parsed);
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        let text = br#"{"cniVersion":"0.3.1","name":"one","type":"ptp","ipam":{}}"#;
        let parsed = parse_file(Path::new("1.conf"), text).unwrap();
        assert_eq!((parsed.name.as_str(), parsed.plugins.len(), parsed.has_check()), ("one", 1, false));
    }

    #[test]
    fn what_is_wrong_is_named_with_the_file() {
        let table = [
            ("{", "not JSON"),
            ("[]", "name"),
            (r#"{"name":"x","plugins":[{"type":"a"}]}"#, "cniVersion is missing"),
            (r#"{"cniVersion":"0.1.0","name":"x","plugins":[{"type":"a"}]}"#, "cniVersion is 0.1.0"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#, "name is missing"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#, "plugins is missing or empty"),
            (r#"{"cniVersion":"1.0.0","name":"x"}"#, "plugins is missing or empty"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":{}}"#, "plugins is not a list"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[{}]}"#, "plugins[0].type is missing"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../sh"}]}"#,
                "not the name of a program",
            ),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[3]}"#, "not an object"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","disableCheck":"no","plugins":[{"type":"a"}]}"#,
                "disableCheck",
            ),
            (
                r#"{"cniVersion":"1.1.0","name":"x","disableGC":1,"plugins":[{"type":"a"}]}"#,
                "disableGC is neither true nor false",
            ),
        ];
        for (text, word) in table {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("10-x.conflist"), "{error}");
        }
        let listed = parse_file(Path::new("1.conf"), br#"{"plugins":[]}"#).unwrap_err().to_string();
        assert!(listed.contains(".conflist"), "{listed}");
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, network: &str| {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"{network}","plugins":[{{"type":"a"}}]}}"#);
            fs::write(dir.path().join(name), text).unwrap();
        };
        assert_eq!(fingerprint(&dir.path().join("none")).unwrap(), vec![]);
        write("20-b.conflist", "b");
        write("99-readme.txt", "x");
        fs::create_dir(dir.path().join("00.conflist")).unwrap();
        std::os::unix::fs::symlink("/no/such", dir.path().join("01.conflist")).unwrap();
        let before = fingerprint(dir.path()).unwrap();
        assert_eq!(read(&before).unwrap().unwrap().name, "b");
        write("10-a.conflist", "a");
        let after = fingerprint(dir.path()).unwrap();
        assert_ne!(before, after);
        assert_eq!(read(&after).unwrap().unwrap().name, "a");
    }

    /// CNI 1.1: a folder of the network's name beside the list has more plugins, unless the list says that it has all.
    #[test]
    fn plugins_in_the_network_s_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder_of = |network: &str| dir.path().join(network);
        let load = |text: &str| {
            fs::write(dir.path().join("10.conflist"), text).unwrap();
            let list = read(&fingerprint(dir.path()).unwrap())?.unwrap();
            let files = folder(&list)?;
            with_folder(list, &files)
        };
        let kinds =
            |list: &ConfList| list.plugins.iter().map(|plugin| plugin.kind.clone()).collect::<Vec<_>>();
        fs::create_dir(folder_of("net")).unwrap();
        fs::write(folder_of("net").join("20-c.conf"), r#"{"type":"c"}"#).unwrap();
        fs::write(folder_of("net").join("10-b.conf"), r#"{"type":"b","capabilities":{"mac":true}}"#).unwrap();
        fs::write(folder_of("net").join("readme.json"), "no").unwrap();
        let list = load(r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"a"}]}"#).unwrap();
        assert_eq!(kinds(&list), ["a", "b", "c"]);
        assert!(list.has_capability("mac") && list.has_status_and_gc());
        assert_eq!(parse_list(&list.file, list.raw.clone()).unwrap(), list, "a record has all of them");
        assert_eq!(kinds(&load(r#"{"cniVersion":"1.1.0","name":"net"}"#).unwrap()), ["b", "c"]);
        let all =
            r#"{"cniVersion":"1.1.0","name":"net","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}"#;
        assert_eq!(kinds(&load(all).unwrap()), ["a"]);
        // A name that is no folder's leads nowhere.
        fs::write(dir.path().join("x.conf"), r#"{"type":"x"}"#).unwrap();
        let out = r#"{"cniVersion":"1.1.0","name":"../none","plugins":[{"type":"a"}]}"#;
        assert_eq!(kinds(&load(out).unwrap()), ["a"]);
        fs::write(folder_of("net").join("10-b.conf"), r#"{"kind":"b"}"#).unwrap();
        let error = load(r#"{"cniVersion":"1.1.0","name":"net"}"#).unwrap_err().to_string();
        assert!(error.contains("10-b.conf") && error.contains("type is missing"), "{error}");
    }

    /// Another network than the first one's would be the wrong one.
    #[test]
    fn a_file_that_cannot_be_looked_at_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("20.conflist"), "{}").unwrap();
        // ELOOP stands for any errno but ENOENT.
        std::os::unix::fs::symlink("10.conflist", dir.path().join("10.conflist")).unwrap();
        let text = fingerprint(dir.path()).unwrap_err().to_string();
        assert!(text.contains("10.conflist"), "{text}");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            prop_oneof![Just("1.0.0".to_owned()), "[a-z./]{0,6}".prop_map(|text| text)].prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = prop_oneof![
                Just("name"),
                Just("cniVersion"),
                Just("plugins"),
                Just("type"),
                Just("capabilities"),
                Just("cniVersions")
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_a_list_or_an_error(value in json()) {
            if let Ok(list) = parse_list(Path::new("x"), value).and_then(|list| with_folder(list, &Vec::new())) {
                prop_assert!(!list.plugins.is_empty() && !list.name.is_empty());
                prop_assert!(list.plugins.iter().all(|plugin| !plugin.kind.contains('/')));
            }
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_file(Path::new("x.conflist"), &bytes);
        }
    }
}
