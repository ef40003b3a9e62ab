//! The records on disk: one redb file, written in one transaction a change.
//!
//! Readers never come here: the records are read once, at the start. What the file says and what we hold in memory are
//! the same after each commit; after a commit that failed nobody knows what the file says, so it is opened anew and
//! written as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::Model;
use crate::Error;

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const REFERENCES: TableDefinition<&str, &str> = TableDefinition::new("references");
const LAYERS: TableDefinition<&str, &[u8]> = TableDefinition::new("layers");
/// Owner and image.
const LEASES: TableDefinition<(&str, &str), ()> = TableDefinition::new("leases");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Of the records' form. Fields may be added to JSON without a new one.
const VERSION: u64 = 1;
/// redb's default would be a gibibyte; the whole file is smaller than this.
const CACHE_BYTES: usize = 1 << 20;

/// The open file.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    /// Nothing after a failure.
    database: Option<Database>,
}

/// What an open has found.
pub(super) enum Opened {
    /// The records as they were; none of them if the store is new.
    Loaded(Records, Model),
    /// The file could not be read: it was renamed and a new one begun.
    SetAside(Records),
}

impl Records {
    /// Opens or makes the file. One that cannot be read is set aside, never fatal. Blocking.
    pub(super) fn open(path: &Path) -> Result<Opened, Error> {
        let reason = match open_and_load(path) {
            Ok((database, model)) => {
                return Ok(Opened::Loaded(Self { path: path.to_owned(), database: Some(database) }, model));
            }
            Err(Trouble::Fatal(error)) => {
                return Err(Error::records(format!("open {}", path.display()), error));
            }
            Err(Trouble::Unreadable(reason)) => reason,
        };
        let aside = path.with_extension("redb.unreadable");
        tracing::warn!(%reason, path = %path.display(), aside = %aside.display(),
            "the records of the image store cannot be read: they are set aside");
        std::fs::rename(path, &aside)
            .map_err(|source| Error::Io { operation: format!("set {} aside", path.display()), source })?;
        let database =
            create(path).map_err(|error| Error::records(format!("make {}", path.display()), error))?;
        Ok(Opened::SetAside(Self { path: path.to_owned(), database: Some(database) }))
    }

    /// Makes the file say `after` instead of `before`; durable when it returns. Blocking.
    pub(super) fn commit(&mut self, before: &Model, after: &Model) -> Result<(), Error> {
        let result = match self.database.take() {
            Some(database) => write(&database, Some(before), after).map(|()| database),
            None => open(&self.path).and_then(|database| write(&database, None, after).map(|()| database)),
        };
        match result {
            Ok(database) => {
                self.database = Some(database);
                Ok(())
            }
            Err(error) => Err(Error::records("commit", error)),
        }
    }
}

enum Trouble {
    /// The content is at fault.
    Unreadable(String),
    /// The disk, or another process that has the file.
    Fatal(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        let error = error.into();
        match &error {
            redb::Error::Io(io) if !matches!(io.kind(), InvalidData | UnexpectedEof) => Self::Fatal(error),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Fatal(error),
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

fn open_and_load(path: &Path) -> Result<(Database, Model), Trouble> {
    // A file of no bytes would be taken for a new one, though it once held records.
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
        return Err(Trouble::Unreadable("the file is empty".into()));
    }
    if !path.exists() {
        return Ok((create(path)?, Model::default()));
    }
    let database = open(path)?;
    let model = load(&database)?;
    Ok((database, model))
}

fn create(path: &Path) -> Result<Database, redb::Error> {
    let database = builder().create(path)?;
    write(&database, None, &Model::default())?;
    Ok(database)
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    Ok(builder().open(path)?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // Without it a damaged page may be met by a panic later.
    builder.set_check_integrity_on_open(true);
    builder
}

fn load(database: &Database) -> Result<Model, Trouble> {
    let transaction = database.begin_write()?;
    let version = transaction.open_table(META)?.get("version")?.map(|version| version.value());
    if version != Some(VERSION) {
        return Err(Trouble::Unreadable(format!("version {version:?} instead of {VERSION}")));
    }
    let mut model = Model::default();
    for row in transaction.open_table(IMAGES)?.iter()? {
        let (id, record) = row?;
        insert(&mut model.images, "image", id.value(), record.value());
    }
    for row in transaction.open_table(LAYERS)?.iter()? {
        let (diff_id, record) = row?;
        insert(&mut model.layers, "layer", diff_id.value(), record.value());
    }
    for row in transaction.open_table(REFERENCES)?.iter()? {
        let (name, id) = row?;
        if let Ok(id) = id.value().parse() {
            model.references.insert(name.value().to_owned(), id);
        }
    }
    for row in transaction.open_table(LEASES)?.iter()? {
        let (lease, _) = row?;
        let (owner, id) = lease.value();
        if let Ok(id) = id.parse() {
            model.leases.insert((owner.to_owned(), id));
        }
    }
    transaction.abort()?;
    Ok(model)
}

/// A record that cannot be read is left out, with a warning: the next pull brings it back.
fn insert<T: DeserializeOwned>(
    into: &mut BTreeMap<crate::digest::Digest, T>,
    what: &'static str,
    key: &str,
    json: &[u8],
) {
    match (key.parse(), serde_json::from_slice(json)) {
        (Ok(key), Ok(record)) => drop(into.insert(key, record)),
        (Err(reason), _) => tracing::warn!(what, key, %reason, "record with a malformed key"),
        (_, Err(error)) => tracing::warn!(what, key, %error, "record that cannot be read"),
    }
}

/// `before`: what the file says; unknown if there is none, then everything is written.
fn write(database: &Database, before: Option<&Model>, after: &Model) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    if before.is_none() {
        for table in [IMAGES, LAYERS] {
            transaction.delete_table(table)?;
        }
        transaction.delete_table(REFERENCES)?;
        transaction.delete_table(LEASES)?;
        transaction.open_table(META)?.insert("version", VERSION)?;
    }
    let nothing = Model::default();
    let before = before.unwrap_or(&nothing);
    write_json(&transaction, IMAGES, &before.images, &after.images)?;
    write_json(&transaction, LAYERS, &before.layers, &after.layers)?;
    let mut references = transaction.open_table(REFERENCES)?;
    for (name, id) in differences(&before.references, &after.references) {
        match id {
            Some(id) => drop(references.insert(name.as_str(), id.as_str())?),
            None => drop(references.remove(name.as_str())?),
        }
    }
    drop(references);
    let mut leases = transaction.open_table(LEASES)?;
    for (owner, id) in before.leases.difference(&after.leases) {
        leases.remove((owner.as_str(), id.as_str()))?;
    }
    for (owner, id) in after.leases.difference(&before.leases) {
        leases.insert((owner.as_str(), id.as_str()), ())?;
    }
    drop(leases);
    transaction.commit()?;
    Ok(())
}

fn write_json<T: Serialize + PartialEq>(
    transaction: &WriteTransaction,
    table: TableDefinition<&str, &[u8]>,
    before: &BTreeMap<crate::digest::Digest, T>,
    after: &BTreeMap<crate::digest::Digest, T>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(table)?;
    for (key, record) in differences(before, after) {
        match record {
            Some(record) => {
                let json = serde_json::to_vec(record).map_err(|error| redb::Error::Io(error.into()))?;
                table.insert(key.as_str(), json.as_slice())?;
            }
            None => drop(table.remove(key.as_str())?),
        }
    }
    Ok(())
}

/// Keys whose value is another one, or gone.
fn differences<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>)> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key, None));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    gone.chain(new.map(|(key, value)| (key, Some(value))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::model::{Blob, ImageRecord, LayerRecord};
    use super::*;
    use crate::digest::Digest;
    use crate::unpack::Footprint;

    fn model(size: usize) -> Model {
        let mut model = Model::default();
        for at in 0..size {
            let digest = Digest::of(&at.to_le_bytes());
            let blob = Blob { digest: digest.clone(), size: 7 };
            let footprint = Footprint { bytes: 4096, inodes: 1 };
            model.layers.insert(digest.clone(), LayerRecord { blob: blob.clone(), entries: 1, footprint });
            let image = ImageRecord {
                diff_ids: vec![digest.clone()],
                blobs: vec![blob],
                directories: (at % 2 == 0).then_some(footprint),
                removed: at % 3 == 0,
                config: holdfast_model::ImageConfig { user: at.to_string(), ..Default::default() },
            };
            model.images.insert(digest.clone(), image);
            model.references.insert(format!("r.io/x:{at}"), digest.clone());
            model.leases.insert((format!("c{at}"), digest));
        }
        model
    }

    fn loaded(path: &Path) -> (Records, Model) {
        match Records::open(path).unwrap() {
            Opened::Loaded(records, model) => (records, model),
            Opened::SetAside(_) => panic!("the records could not be read"),
        }
    }

    #[test]
    fn what_is_committed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let (mut records, mut before) = loaded(&path);
        assert_eq!(before, Model::default());
        for size in [1, 20, 5, 0, 3] {
            let after = model(size);
            records.commit(&before, &after).unwrap();
            drop(records);
            (records, before) = loaded(&path);
            assert_eq!(before, after);
        }
        // After a failure the file is written as a whole, whatever it says by then.
        records.commit(&before, &model(9)).unwrap();
        records.database = None;
        records.commit(&before, &model(2)).unwrap();
        drop(records);
        assert_eq!(loaded(&path).1, model(2));
    }

    #[test]
    fn one_record_of_many_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let (mut records, before) = loaded(&path);
        records.commit(&before, &model(3)).unwrap();
        let transaction = records.database.as_ref().unwrap().begin_write().unwrap();
        let id = Digest::of(&1_usize.to_le_bytes());
        transaction.open_table(IMAGES).unwrap().insert(id.as_str(), b"{".as_slice()).unwrap();
        transaction.open_table(LAYERS).unwrap().insert("sha256:short", b"{}".as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(records);
        let mut want = model(3);
        want.images.remove(&id);
        assert_eq!(loaded(&path).1, want);
    }

    #[test]
    fn a_later_version_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let (records, _) = loaded(&path);
        let transaction = records.database.as_ref().unwrap().begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(records);
        assert!(matches!(Records::open(&path).unwrap(), Opened::SetAside(_)));
        assert_eq!(loaded(&path).1, Model::default());
    }

    /// With panic = "abort" a panic on a damaged file would end the agent at each of its starts.
    #[test]
    fn damage_is_neither_believed_nor_fatal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let (mut records, before) = loaded(&path);
        let want = model(20);
        records.commit(&before, &want).unwrap();
        drop(records);
        let bytes = std::fs::read(&path).unwrap();
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 1009 == 0).collect();
        let (mut random, mut set_aside) = (12345_u64, 0);
        for round in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=round % 3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                damaged[written[(random >> 20) as usize % written.len()]] ^= 1 << (random % 8);
            }
            std::fs::write(&path, &damaged).unwrap();
            match Records::open(&path).unwrap() {
                Opened::Loaded(_, model) => assert_eq!(model, want, "round {round}"),
                Opened::SetAside(_) => set_aside += 1,
            }
        }
        assert!(set_aside > 0);
    }
}
