//! The directory of a run: `<root>/standalone/<uid>`, with what the pod's containers see and write.
//!
//! A run holds a lock on its directory, which the kernel takes back when the process is gone. A directory without a
//! holder was left by a run that was killed: whoever comes next takes the lock, removes the pod that the record names,
//! and the directory. The directory above goes with the last one in it; who makes or removes something in it holds a
//! lock on it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use holdfast_model::PodSandboxConfig;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

const PARENT: &str = "standalone";
const RECORD: &str = "pod.json";
const VERSION: u32 = 1;

/// A directory that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A run with the same uid goes on.
    #[error("a pod with the uid {uid} runs already: end that run, or leave metadata.uid out")]
    Taken {
        /// The uid.
        uid: String,
    },
    /// A file or directory.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

impl PlaceError {
    /// For `map_err`.
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// What a run has made, written before it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Version of this record.
    pub version: u32,
    /// The pod sandbox's id, once it is known.
    pub sandbox: Option<String>,
    /// What RunPodSandbox is asked for; `None`: it has not been asked.
    pub config: Option<PodSandboxConfig>,
    /// The number of the pod's range of ids, if it has a user namespace.
    pub ids: Option<u32>,
}

/// The directory of a run, locked as long as one copy of this lives.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
    _lock: Arc<File>,
}

impl Place {
    /// Makes the directory of a run.
    pub fn make(root: &Path, uid: &str) -> Result<Self, PlaceError> {
        let (parent, _parent_lock) = lock_parent(root)?;
        let dir = parent.join(uid);
        let made = DirBuilder::new().mode(0o700).create(&dir);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(PlaceError::Taken { uid: uid.to_owned() });
            }
            made => made.map_err(PlaceError::io("make", &dir))?,
        }
        let lock = try_lock(&dir)?.ok_or_else(|| PlaceError::Taken { uid: uid.to_owned() })?;
        let place = Self { dir, _lock: Arc::new(lock) };
        for name in ["logs", "volumes", "messages"] {
            make_dir(&place.dir.join(name))?;
        }
        Ok(place)
    }

    /// The directories that runs left that are gone, locked for us.
    pub fn leftovers(root: &Path) -> Result<Vec<Self>, PlaceError> {
        if !root.join(PARENT).exists() {
            return Ok(Vec::new());
        }
        let (parent, _parent_lock) = lock_parent(root)?;
        let mut leftovers = Vec::new();
        for dir in directories(&parent)? {
            if let Some(lock) = try_lock(&dir)? {
                leftovers.push(Self { dir, _lock: Arc::new(lock) });
            }
        }
        if leftovers.is_empty() {
            // An empty one that a killed run left.
            let _ = fs::remove_dir(parent);
        }
        Ok(leftovers)
    }

    /// Whether a pod with this uid is a run's, one that was killed perhaps.
    pub fn is_of_a_run(root: &Path, uid: &str) -> bool {
        !uid.is_empty() && !uid.contains('/') && root.join(PARENT).join(uid).is_dir()
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where logs go.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The directory of an emptyDir.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.join("volumes").join(name)
    }

    /// The last words of a container.
    pub fn message(&self, container: &str, attempt: u32) -> PathBuf {
        self.dir.join("messages").join(format!("{container}.{attempt}"))
    }

    /// The pod's /etc/hosts, if it is our own.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// Writes the record: the old one or the new one is there, never half of one.
    pub fn write(&self, record: &Record) -> Result<(), PlaceError> {
        let (path, new) = (self.dir.join(RECORD), self.dir.join("pod.json.new"));
        let failed = PlaceError::io("write", &path);
        let record = Record { version: VERSION, ..record.clone() };
        let written = serde_json::to_vec(&record).map_err(io::Error::from);
        written
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed)
    }

    /// Reads the record. `None`: nothing was made yet.
    pub fn read(&self) -> Result<Option<Record>, PlaceError> {
        read_record(&self.dir)
    }

    /// A range of ids that no other run has. Its number goes into our record before anybody else can look.
    pub fn reserve_ids(&self, record: &mut Record) -> Result<u32, PlaceError> {
        let root = self.dir.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let (parent, _parent_lock) = lock_parent(root)?;
        let mut taken = Vec::new();
        for dir in directories(&parent)? {
            // A record that cannot be read is the affair of whoever cleans up.
            taken.extend(read_record(&dir).ok().flatten().and_then(|record| record.ids));
        }
        // Of so many numbers one more than there are taken is free.
        let free = (0..=taken.len() as u32).find(|number| !taken.contains(number)).unwrap_or(0);
        record.ids = Some(free);
        self.write(record)?;
        Ok(free)
    }

    /// Removes it.
    pub fn remove(self) -> Result<(), PlaceError> {
        let root = self.dir.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        holdfast_tree::remove(&self.dir).map_err(PlaceError::io("remove", &self.dir))?;
        let (parent, _parent_lock) = lock_parent(root)?;
        // Others may be in it.
        let _ = fs::remove_dir(parent);
        Ok(())
    }
}

/// Makes the directory of all runs if it is not there, and locks it.
fn lock_parent(root: &Path) -> Result<(PathBuf, File), PlaceError> {
    let parent = root.join(PARENT);
    loop {
        match DirBuilder::new().mode(0o700).create(&parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(PlaceError::io("make", &parent)(error));
            }
            _ => {}
        }
        let lock = match File::open(&parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(PlaceError::io("open", &parent))?,
        };
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| PlaceError::io("lock", &parent)(errno.into()))?;
        // Whoever had it before may have removed it.
        if is_same(&lock, &parent) {
            return Ok((parent, lock));
        }
    }
}

/// `None`: somebody has it, or it is gone.
fn try_lock(dir: &Path) -> Result<Option<File>, PlaceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened.map_err(|errno| PlaceError::io("open", dir)(errno.into()))?),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked.map_err(|errno| PlaceError::io("lock", dir)(errno.into()))?,
    }
    Ok(is_same(&lock, dir).then_some(lock))
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>, PlaceError> {
    let entries = fs::read_dir(parent).map_err(PlaceError::io("read", parent))?;
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.flatten().filter(is_dir).map(|entry| entry.path()).collect())
}

fn read_record(dir: &Path) -> Result<Option<Record>, PlaceError> {
    let path = dir.join(RECORD);
    let failed = PlaceError::io("read", &path);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read,
    };
    bytes.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)).map(Some).map_err(failed)
}

/// mkdir. Nobody but root comes this way: containers see what is in it by mounts.
pub fn make_dir(path: &Path) -> Result<(), PlaceError> {
    DirBuilder::new().mode(0o755).create(path).map_err(PlaceError::io("make", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entries(root: &Path) -> usize {
        fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn one_run_for_each_uid_and_nothing_left() {
        let root = tempfile::tempdir().unwrap();
        let first = Place::make(root.path(), "a").unwrap();
        let error = Place::make(root.path(), "a").unwrap_err().to_string();
        assert!(error.contains("a pod with the uid a runs already"), "{error}");
        let second = Place::make(root.path(), "b").unwrap();
        assert!(Place::leftovers(root.path()).unwrap().is_empty());
        first.remove().unwrap();
        assert!(second.logs().is_dir() && second.dir().join("volumes").is_dir());
        second.remove().unwrap();
        assert_eq!(entries(root.path()), 0);
        assert!(Place::leftovers(root.path()).unwrap().is_empty());
        assert_eq!(entries(root.path()), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_found_with_its_record() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::make(root.path(), "a").unwrap();
        assert_eq!(place.read().unwrap(), None);
        let record = Record { sandbox: Some("id".to_owned()), ..Record::default() };
        place.write(&record).unwrap();
        fs::write(place.logs().join("x"), "y").unwrap();
        // The kernel takes a lock back with the process; here with the descriptor.
        drop(place);
        let mut leftovers = Place::leftovers(root.path()).unwrap();
        let leftover = leftovers.pop().unwrap();
        assert_eq!(leftover.read().unwrap().unwrap().sandbox.as_deref(), Some("id"));
        assert!(Place::leftovers(root.path()).unwrap().is_empty(), "only one cleans up");
        leftover.remove().unwrap();
        assert_eq!(entries(root.path()), 0);
    }

    #[test]
    fn ranges_of_ids_differ() {
        let root = tempfile::tempdir().unwrap();
        let reserve = |uid: &str| {
            let place = Place::make(root.path(), uid).unwrap();
            let number = place.reserve_ids(&mut Record::default()).unwrap();
            (place, number)
        };
        let (a, b) = (reserve("a"), reserve("b"));
        assert_eq!((a.1, b.1), (0, 1));
        a.0.remove().unwrap();
        assert_eq!(reserve("c").1, 0);
    }

    #[test]
    fn many_come_and_go_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let root = root.path();
                scope.spawn(move || {
                    for _ in 0..50 {
                        Place::make(root, &format!("uid-{thread}")).unwrap().remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(entries(root.path()), 0);
    }
}
