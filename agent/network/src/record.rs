//! Records of what each pod's network is: one file a pod, written before the thing is made.
//!
//! A file is created beside its place and renamed, without fsync: SIGKILL cannot tear it. After power loss a record
//! may be empty or torn; then, as with one of a newer version, it is set aside and the rest goes on, since all that it
//! named in the kernel is gone with the boot. CNI plugins keep leases of their own on disk; for those the loss of the
//! record is a lost address at worst, and never a node that does not start.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use holdfast_model::{PodId, Protocol};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, subnet::Subnet};

/// Version of the record format that this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// What was done, or is about to be done, for a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) pod: PodId,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) phase: Phase,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) network: PodKind,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// ADD has begun: any part of it may be there.
    Adding,
    /// ADD has succeeded.
    Up,
    /// DEL has begun or is done but for the link, which has yet to go.
    Deleting,
    /// DEL is done but for the pin of the network namespace, which has yet to go.
    Unpinning,
}

/// Who gave the pod its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodKind {
    /// The bridge.
    Embedded {
        /// Name of the host's end of the veth pair.
        link: String,
        /// The primary one first.
        addresses: Vec<IpAddr>,
    },
    /// Plugins.
    Cni(Box<CniRecord>),
}

/// Everything that DEL and CHECK need, whatever has become of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CniRecord {
    /// The configuration list that ADD used.
    pub(crate) conf: serde_json::Value,
    /// Where it came from, for messages.
    pub(crate) file: PathBuf,
    /// CNI_ARGS.
    pub(crate) args: String,
    /// Capability arguments, by capability.
    pub(crate) capability_args: serde_json::Map<String, serde_json::Value>,
    /// The pinned network namespace.
    pub(crate) netns: PathBuf,
    /// What ADD returned.
    pub(crate) result: Option<serde_json::Value>,
}

/// A host port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    /// `None`: all addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) container_port: u16,
}

impl Record {
    /// What people call the pod.
    pub(crate) fn owner(&self) -> String {
        format!("{}/{} ({})", self.namespace, self.name, self.pod.short())
    }
}

/// The bridge that this agent made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) name: String,
    /// Its random hardware address; a bridge with another one is somebody else's.
    pub(crate) mac: [u8; 6],
    pub(crate) subnets: Vec<Subnet>,
}

/// The record files under one directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Store {
    /// Opens (and makes) the directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let store = Self { dir: dir.to_owned() };
        fs::create_dir_all(store.pods()).map_err(Error::io(format!("create {}", store.pods().display())))?;
        Ok(store)
    }

    /// Every pod's record; the unreadable ones are set aside.
    pub(crate) fn load(&self) -> Result<Vec<Record>, Error> {
        let entries =
            fs::read_dir(self.pods()).map_err(Error::io(format!("read {}", self.pods().display())))?;
        let mut records = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => records.extend(self.read::<Record>(&path)?),
                // Left by a process that died between create and rename.
                Some("new") => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok(records)
    }

    /// Writes a pod's record.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        write(&self.pod(&record.pod), record)
    }

    /// Removes a pod's record; success if there is none.
    pub(crate) fn remove(&self, pod: &PodId) -> Result<(), Error> {
        remove(&self.pod(pod))
    }

    /// The bridge's record.
    pub(crate) fn load_bridge(&self) -> Result<Option<BridgeRecord>, Error> {
        self.read(&self.bridge())
    }

    /// Writes the bridge's record.
    pub(crate) fn save_bridge(&self, record: &BridgeRecord) -> Result<(), Error> {
        write(&self.bridge(), record)
    }

    /// Removes the bridge's record.
    pub(crate) fn remove_bridge(&self) -> Result<(), Error> {
        remove(&self.bridge())
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

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        };
        match parse(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(reason) => {
                self.set_aside(path, &reason);
                Ok(None)
            }
        }
    }

    fn set_aside(&self, path: &Path, reason: &str) {
        let aside = self.dir.join("aside");
        let target = aside.join(path.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(path, &target));
        let (record, aside) = (path.display(), target.display());
        match moved {
            Ok(()) => tracing::warn!(%record, %aside, reason, "record set aside"),
            Err(error) => tracing::warn!(%record, %error, reason, "record ignored"),
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version > VERSION {
        return Err(format!("version {version} is newer than {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn write(path: &Path, record: &impl Serialize) -> Result<(), Error> {
    let new = path.with_extension("new");
    let bytes = serde_json::to_vec(record)
        .map_err(|error| Error::io(format!("encode {}", path.display()))(error.into()))?;
    fs::File::create(&new)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| {
            let _ = fs::remove_file(&new);
            Error::io(format!("write {}", path.display()))(error)
        })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            version: VERSION,
            boot_id: "boot".into(),
            pod: PodId::random().unwrap(),
            name: "web".into(),
            namespace: "default".into(),
            phase: Phase::Up,
            ports: vec![HostPort { protocol: Protocol::Tcp, address: None, port: 80, container_port: 8080 }],
            network: PodKind::Embedded { link: "hf0".into(), addresses: vec!["10.79.0.2".parse().unwrap()] },
        }
    }

    #[test]
    fn saved_loaded_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = record();
        store.save(&record).unwrap();
        fs::write(dir.path().join("pods/left.new"), "{").unwrap();
        assert_eq!(store.load().unwrap(), vec![record.clone()]);
        assert!(!dir.path().join("pods/left.new").exists());
        store.remove(&record.pod).unwrap();
        store.remove(&record.pod).unwrap();
        assert_eq!(store.load().unwrap(), vec![]);
    }

    #[test]
    fn truncated_anywhere_it_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = record();
        let bytes = serde_json::to_vec(&record).unwrap();
        let path = store.pod(&record.pod);
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(store.load().unwrap(), vec![], "{length}");
            assert!(!path.exists());
            assert_eq!(
                fs::read(dir.path().join("aside").join(path.file_name().unwrap())).unwrap(),
                &bytes[..length]
            );
        }
    }

    #[test]
    fn a_newer_version_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let newer = Record { version: VERSION + 1, ..record() };
        store.save(&newer).unwrap();
        assert_eq!(store.load().unwrap(), vec![]);
        assert!(dir.path().join("aside").join(format!("{}.json", newer.pod)).exists());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_never_fatal(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            fs::write(dir.path().join("bridge.json"), &bytes).unwrap();
            proptest::prop_assert!(store.load_bridge().unwrap().is_none());
        }
    }
}
