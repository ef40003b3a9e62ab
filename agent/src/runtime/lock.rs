//! One agent for each `root` and each `state` directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_sys::proc::Stat;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Longest wait for what is left of a dead agent. The lock belongs to the open file, which a process that it had forked and that
/// has not called execve(2) yet still has (flock(2)).
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);

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
    let deadline = Instant::now() + LEFTOVER_LIMIT;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(failed(error.into()));
        }
        let pid = owner(&mut file).map_err(failed)?;
        if is_alive(&pid) || Instant::now() > deadline {
            return Err(LockError::InUse { dir: dir.to_owned(), pid });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

/// The pid that whoever has the lock wrote into the file; empty if it has not yet.
fn owner(file: &mut File) -> io::Result<String> {
    let mut pid = String::new();
    file.rewind()?;
    file.take(16).read_to_string(&mut pid)?;
    Ok(pid.trim().to_owned())
}

/// Whether there is a process of that number. A zombie is none: it has closed its files.
fn is_alive(pid: &str) -> bool {
    let stat = pid.parse().ok().and_then(|pid| Stat::of(pid).ok());
    stat.is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
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

    #[test]
    fn what_a_dead_agent_forked_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let left_over = take_one(dir.path()).unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        std::fs::write(dir.path().join("lock"), format!("{}\n", dead.id())).unwrap();
        let exec = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(left_over);
        });
        take_one(dir.path()).unwrap();
        exec.join().unwrap();
    }
}
