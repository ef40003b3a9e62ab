//! The files of the sets.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Number of a set, which is the name of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    /// The format's version.
    pub version: u32,
    /// Counts the additions since the first set of that version.
    pub revision: u32,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.revision)
    }
}

/// A stored set.
#[derive(Debug)]
pub struct Set {
    /// Its number.
    pub number: Number,
    /// Samples by name.
    pub samples: BTreeMap<String, Value>,
}

fn directory(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sets").join(format)
}

/// All sets of a format, the newest last.
pub fn load(format: &str) -> Vec<Set> {
    let mut sets: Vec<Set> = entries(&directory(format)).iter().map(|dir| read(dir)).collect();
    sets.sort_by_key(|set| set.number);
    sets
}

fn read(dir: &Path) -> Set {
    let number = dir.file_name().and_then(|name| number(name.to_str()?));
    let number = number.unwrap_or_else(|| panic!("{} is no version and revision", dir.display()));
    let samples = entries(dir).into_iter().map(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let value = serde_json::from_slice(&text);
        (name, value.unwrap_or_else(|error| panic!("parse {}: {error}", path.display())))
    });
    Set { number, samples: samples.collect() }
}

fn number(name: &str) -> Option<Number> {
    let (version, revision) = name.split_once('.')?;
    Some(Number { version: version.parse().ok()?, revision: revision.parse().ok()? })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Stores a set that is not there yet.
pub fn store(format: &str, number: Number, samples: &[(String, Value)]) {
    let dir = directory(format).join(number.to_string());
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("make {}: {error}", dir.display()));
    for (name, value) in samples {
        let path = dir.join(format!("{name}.json"));
        fs::write(&path, format!("{value:#}\n"))
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
    println!("stored {}", dir.display());
}
