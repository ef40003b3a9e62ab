//! One agent for each `root` and each `state` directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// Why the directories could not be locked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LockError {
    #[error(
        "{dir:?} is in use by the holdfast with pid {pid}: stop that one, or give this one other directories"
    )]
    InUse { dir: PathBuf, pid: String },
    #[error("lock {path:?}")]
    Io { path: PathBuf, source: io::Error },
}

/// Held as long as it lives; the kernel gives it back when the process ends.
#[derive(Debug)]
pub struct Lock {
    _files: [File; 2],
}

impl Lock {
    /// Locks both directories, which exist.
    pub fn take(root: &Path, state: &Path) -> Result<Self, LockError> {
        Ok(Self { _files: [take_one(root)?, take_one(state)?] })
    }
}

fn take_one(dir: &Path) -> Result<File, LockError> {
    let path = dir.join("lock");
    let failed = |source| LockError::Io { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.take(16).read_to_string(&mut pid);
        return Err(LockError::InUse { dir: dir.to_owned(), pid: pid.trim().to_owned() });
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_has_it() {
        let root = std::env::temp_dir().join(format!("holdfast-lock-{}", std::process::id()));
        let state = root.join("state");
        std::fs::create_dir_all(&state).unwrap();
        let held = Lock::take(&root, &state).unwrap();
        let error = Lock::take(&root, &state).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(held);
        Lock::take(&root, &state).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
    }
}
