//! `store.redb`: where programs before this one kept the records, one redb file for all images.
//!
//! What it says is taken over once; a sign then stands in its place. A program that looks for its records there finds a
//! file that is none, sets it aside and takes the images over from the disk. Without the sign it would take the store for
//! a new one and throw the layers away, those of running containers as well.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Builder, ReadableTable, StorageBackend as _, TableDefinition};

use super::home::Home;
use super::model::{ImageRecord, Model};
use crate::Error;

pub(super) const FILE: &str = "store.redb";
const SIGN: &str =
    "The records of this image store are in the directory images. This file tells older programs so.\n";

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const REFERENCES: TableDefinition<&str, &str> = TableDefinition::new("references");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: u64 = 1;

/// What stands where the old records were.
pub(super) enum Legacy {
    /// Nothing, or the sign.
    Over,
    /// Images and references. The leases that it has as well are not read: the containers' records are what counts.
    Records(Model),
    /// A file that cannot be read.
    Unreadable,
}

/// Reads the old records. Nothing is written, not even what redb repairs after a crash. Blocking.
pub(super) fn load(home: &Home) -> Result<Legacy, Error> {
    let path = home.path_of(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Legacy::Over),
        Err(source) => return Err(Error::Io { operation: format!("read {}", path.display()), source }),
    };
    if bytes == SIGN.as_bytes() {
        return Ok(Legacy::Over);
    }
    Ok(match read(&bytes) {
        Ok(model) => Legacy::Records(model),
        Err(reason) => {
            tracing::warn!(reason, path = %path.display(), "the records of an older program cannot be read");
            Legacy::Unreadable
        }
    })
}

/// Puts the sign up; a file that could not be read is kept beside it. Blocking.
pub(super) fn replace(home: &Home, legacy: &Legacy) {
    let path = home.path_of(FILE);
    let done = (|| {
        match legacy {
            Legacy::Over if path.exists() => return Ok(()),
            Legacy::Unreadable => std::fs::rename(&path, path.with_extension("redb.unreadable"))?,
            Legacy::Over | Legacy::Records(_) => {}
        }
        put_up(&path)
    })();
    if let Err(error) = done {
        tracing::warn!(%error, path = %path.display(), "an older program would take this image store for an empty one");
    }
}

fn put_up(path: &Path) -> io::Result<()> {
    let new = path.with_extension("redb.new");
    std::fs::write(&new, SIGN)?;
    std::fs::rename(new, path)
}

fn read(bytes: &[u8]) -> Result<Model, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64).map_err(text)?;
    backend.write(0, bytes).map_err(text)?;
    let mut builder = Builder::new();
    // Without it a damaged page may be met by a panic later.
    builder.set_check_integrity_on_open(true);
    let database = builder.create_with_backend(backend).map_err(text)?;
    let transaction = database.begin_write().map_err(text)?;
    let meta = transaction.open_table(META).map_err(text)?;
    let version = meta.get("version").map_err(text)?.map(|version| version.value());
    if version != Some(VERSION) {
        return Err(format!("version {version:?} instead of {VERSION}"));
    }
    let mut model = Model::default();
    for row in transaction.open_table(IMAGES).map_err(text)?.iter().map_err(text)? {
        let (id, record) = row.map_err(text)?;
        insert(&mut model.images, id.value(), record.value());
    }
    for row in transaction.open_table(REFERENCES).map_err(text)?.iter().map_err(text)? {
        let (name, id) = row.map_err(text)?;
        if let Ok(id) = id.value().parse() {
            model.references.insert(name.value().to_owned(), id);
        }
    }
    Ok(model)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// A record that cannot be read is left out, with a warning: the next pull brings it back.
fn insert(into: &mut BTreeMap<crate::digest::Digest, ImageRecord>, key: &str, json: &[u8]) {
    match (key.parse(), serde_json::from_slice(json)) {
        (Ok(key), Ok(record)) => drop(into.insert(key, record)),
        (Err(reason), _) => tracing::warn!(key, %reason, "image record with a malformed key"),
        (_, Err(error)) => tracing::warn!(key, %error, "image record that cannot be read"),
    }
}
