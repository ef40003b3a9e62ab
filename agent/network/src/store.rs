//! The files of the records: one for each pod and one for the bridge.
//!
//! SIGKILL cannot tear them, and they are durable soon after they were written (`holdfast_record`). A power cut before that may leave
//! one empty or torn; then it is set aside and the rest goes on, since all that it named in the kernel is gone with the
//! boot. CNI plugins keep leases of their own on disk; for those DEL is run with the configuration of now.
//!
//! A newer program's record stays where it is, for that program; so does one that is whole and says what is not known here. A record that cannot be read for an I/O error fails the
//! start: what it holds would be given to somebody else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use holdfast_model::PodId;
use holdfast_record::Durable;
use holdfast_sys::failpoint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error,
    record::{BridgeRecord, Newer, Record, VERSION},
};

/// The record files under one directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    durable: Durable,
}

/// What the directory holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) records: Vec<Record>,
    pub(crate) newer: Vec<Newer>,
    /// Pods whose records were torn.
    pub(crate) torn: Vec<PodId>,
}

/// What a file holds.
enum Content<T> {
    Record(T),
    Newer { version: u32, record: Value },
    Torn(String),
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
}

impl Store {
    /// Opens (and makes) the directory.
    pub(crate) fn open(dir: &Path, durable: Durable) -> Result<Self, Error> {
        let store = Self { dir: dir.to_owned(), durable };
        fs::create_dir_all(store.pods()).map_err(Error::io(format!("create {}", store.pods().display())))?;
        Ok(store)
    }

    /// Every pod's record; the torn ones are set aside. `boot_id` is this boot's.
    pub(crate) fn load(&self, boot_id: &str) -> Result<Loaded, Error> {
        let failed = |source| Error::io(format!("read {}", self.pods().display()))(source);
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(self.pods()).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => self.load_one(&path, boot_id, &mut loaded)?,
                Some(holdfast_record::UNFINISHED) => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok(loaded)
    }

    fn load_one(&self, path: &Path, boot_id: &str, loaded: &mut Loaded) -> Result<(), Error> {
        let Some(bytes) = read(path)? else { return Ok(()) };
        match parse(&bytes) {
            Content::Record(record) => loaded.records.push(record),
            Content::Newer { version, record } => {
                let pod = path.file_stem().unwrap_or_default().to_string_lossy();
                tracing::warn!(
                    record = %path.display(), version, bytes = bytes.len(),
                    "network record of a newer program: left for it, with what it holds"
                );
                loaded.newer.push(Newer::read(&pod, &record, boot_id));
            }
            Content::Torn(reason) => {
                self.set_aside(path, &reason, bytes.len());
                let pod = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
                loaded.torn.extend(pod);
            }
        }
        Ok(())
    }

    /// Writes a pod's record.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        self.write(self.pod(&record.pod), record)
    }

    /// Removes a pod's record; success if there is none.
    pub(crate) fn remove(&self, pod: &PodId) -> Result<(), Error> {
        remove(&self.pod(pod))
    }

    /// The bridge's record. One of a newer program is good as long as it says all that is asked for here.
    pub(crate) fn load_bridge(&self) -> Result<Option<BridgeRecord>, Error> {
        let path = self.bridge();
        let Some(bytes) = read(&path)? else { return Ok(None) };
        match parse(&bytes) {
            Content::Record(record) => Ok(Some(record)),
            Content::Newer { record, .. } => Ok(serde_json::from_value(record).ok()),
            Content::Torn(reason) => {
                self.set_aside(&path, &reason, bytes.len());
                Ok(None)
            }
        }
    }

    /// Writes the bridge's record.
    pub(crate) fn save_bridge(&self, record: &BridgeRecord) -> Result<(), Error> {
        self.write(self.bridge(), record)
    }

    /// Removes the bridge's record.
    pub(crate) fn remove_bridge(&self) -> Result<(), Error> {
        remove(&self.bridge())
    }

    /// Whether [`Self::note_cni`] was called, ever.
    pub(crate) fn cni_is_noted(&self) -> Result<bool, Error> {
        read(&self.cni()).map(|note| note.is_some())
    }

    /// Writes down that CNI has served here.
    pub(crate) fn note_cni(&self) -> Result<(), Error> {
        self.write(self.cni(), &Versioned { version: VERSION })
    }

    fn cni(&self) -> PathBuf {
        self.dir.join("cni.json")
    }

    fn pods(&self) -> PathBuf {
        self.dir.join("pods")
    }

    fn pod(&self, pod: &PodId) -> PathBuf {
        self.pods().join(format!("{pod}.json"))
    }

    fn bridge(&self) -> PathBuf {
        self.dir.join("bridge.json")
    }

    fn write(&self, path: PathBuf, record: &impl Serialize) -> Result<(), Error> {
        let failed = |source| Error::io(format!("write {}", path.display()))(source);
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        failpoint::at("network.record.write").map_err(failed)?;
        holdfast_record::write(&path, &bytes).map_err(failed)?;
        self.durable.later(path);
        Ok(())
    }

    fn set_aside(&self, path: &Path, reason: &str, bytes: usize) {
        let aside = self.dir.join("aside");
        let target = aside.join(path.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(path, &target));
        let (record, aside) = (path.display(), target.display());
        match moved {
            Ok(()) => tracing::warn!(%record, %aside, bytes, reason, "record set aside"),
            Err(error) => tracing::warn!(%record, %error, bytes, reason, "record ignored"),
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error)),
    }
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Content<T> {
    let version = match serde_json::from_slice::<Versioned>(bytes) {
        Ok(Versioned { version }) => version,
        Err(error) => return Content::Torn(error.to_string()),
    };
    let not_ours = if version > VERSION {
        None
    } else {
        match serde_json::from_slice(bytes) {
            Ok(record) => return Content::Record(record),
            Err(error) => Some(error),
        }
    };
    match (serde_json::from_slice(bytes), not_ours) {
        (Ok(record), None) => Content::Newer { version, record },
        (Ok(record), Some(error)) if error.is_data() => Content::Newer { version, record },
        (Ok(_), Some(error)) | (Err(error), _) => Content::Torn(error.to_string()),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::io(format!("remove {}", path.display()))(source);
    failpoint::at("network.record.remove").map_err(failed)?;
    holdfast_record::remove(path).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use holdfast_model::Protocol;

    use super::*;
    use crate::record::{HostPort, PodKind};

    const BOOT: &str = "boot";

    fn record() -> Record {
        let port = HostPort { protocol: Protocol::Tcp, address: None, port: 80, container_port: 8080 };
        let network = PodKind::Embedded { link: "hf0".into(), addresses: vec!["10.79.0.2".parse().unwrap()] };
        Record::new(BOOT, PodId::random().unwrap(), vec![port], network)
    }

    #[test]
    fn saved_loaded_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        let record = record();
        store.save(&record).unwrap();
        fs::write(dir.path().join("pods/left.json.new"), "{").unwrap();
        assert_eq!(store.load(BOOT).unwrap().records, vec![record.clone()]);
        assert!(!dir.path().join("pods/left.json.new").exists());
        store.remove(&record.pod).unwrap();
        store.remove(&record.pod).unwrap();
        assert_eq!(store.load(BOOT).unwrap().records, vec![]);
    }

    #[test]
    fn truncated_anywhere_it_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        let record = record();
        let bytes = serde_json::to_vec(&record).unwrap();
        let path = store.pod(&record.pod);
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let loaded = store.load(BOOT).unwrap();
            assert!(loaded.records.is_empty() && loaded.newer.is_empty(), "{length}");
            assert_eq!(loaded.torn, std::slice::from_ref(&record.pod));
            assert!(!path.exists());
            assert_eq!(
                fs::read(dir.path().join("aside").join(path.file_name().unwrap())).unwrap(),
                &bytes[..length]
            );
        }
    }

    #[test]
    fn a_newer_version_stays_and_holds_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        let newer = Record { version: VERSION + 1, ..record() };
        store.save(&newer).unwrap();
        for _ in 0..2 {
            let loaded = store.load(BOOT).unwrap();
            assert_eq!((loaded.records.len(), loaded.newer.len()), (0, 1));
            let held = &loaded.newer[0];
            assert_eq!((held.pod.as_str(), &held.ports), (newer.pod.as_str(), &newer.ports));
            assert_eq!((held.addresses.as_slice(), held.link.as_deref()), (newer.addresses(), Some("hf0")));
        }
        assert!(store.pod(&newer.pod).exists() && !dir.path().join("aside").exists());
    }

    #[test]
    fn what_cannot_be_read_fails_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        // EISDIR stands for any errno of read(2).
        fs::create_dir(store.pods().join("x.json")).unwrap();
        let text = store.load(BOOT).unwrap_err().to_string();
        assert!(text.contains("x.json"), "{text}");
    }

    #[test]
    fn a_bridge_of_a_newer_program_is_used_as_far_as_it_says_enough() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
        let record = BridgeRecord {
            version: VERSION + 1,
            boot_id: BOOT.into(),
            name: "b".into(),
            mac: [2, 0, 0, 0, 0, 1],
            subnets: Vec::new(),
        };
        store.save_bridge(&record).unwrap();
        assert_eq!(store.load_bridge().unwrap(), Some(record));
        fs::write(store.bridge(), r#"{"version":9}"#).unwrap();
        assert_eq!(store.load_bridge().unwrap(), None);
        assert!(store.bridge().exists());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_never_fatal(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), Durable::start().unwrap()).unwrap();
            fs::write(dir.path().join("bridge.json"), &bytes).unwrap();
            fs::write(dir.path().join("pods/x.json"), &bytes).unwrap();
            proptest::prop_assert!(store.load_bridge().unwrap().is_none());
            proptest::prop_assert!(store.load(BOOT).unwrap().records.is_empty());
        }
    }
}
