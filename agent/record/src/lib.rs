//! Files that keep state: each is there whole or not at all, and durable soon after it was written.
//!
//! [`write()`] replaces a file by rename(2), so `kill -9` leaves the old content or the new one. That alone survives no power
//! cut: a file that was renamed without fsync(2) may be empty afterwards. [`Durable`] makes files durable in the
//! background, many with one commit, so that no operation waits for a disk; only somebody who tells what can never be taken
//! back waits ([`Durable::settle`]). What was told so is only ever replaced by what is durable already ([`replace`]).

mod durable;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use holdfast_sys::failpoint;

pub use durable::Durable;

/// Ending of a file that is not complete yet. Whoever finds one may remove it.
pub const UNFINISHED: &str = "new";

/// Makes `path` have this content, by a file beside it and rename(2). Blocking.
///
/// # Errors
/// Those of open(2), write(2) and rename(2); the old content stays then, and nothing is left beside it.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, |_| Ok(()))
}

/// The same for a file that must not be lost: its content is durable before it has the name, so that a power cut leaves the old
/// content or the new one, and never an empty file. Blocking, for as long as the disk takes.
///
/// # Errors
/// Those of [`write()`], and of fsync(2).
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, |file| {
        failpoint::at("record.fsync")?;
        file.sync_data()
    })
}

fn put(path: &Path, content: &[u8], finish: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let new = unfinished(path);
    let written = create(&new, content).and_then(|file| finish(&file)).and_then(|()| {
        failpoint::at("record.rename")?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // Its room may be what is missing.
        let _ = fs::remove_file(&new);
    }
    written
}

fn create(new: &Path, content: &[u8]) -> io::Result<File> {
    failpoint::at("record.create")?;
    let mut file = File::create(new)?;
    failpoint::at("record.write")?;
    file.write_all(content)?;
    Ok(file)
}

/// Removes a file; not being there is success. Blocking.
///
/// # Errors
/// Those of unlink(2) but ENOENT.
pub fn remove(path: &Path) -> io::Result<()> {
    failpoint::at("record.remove")?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `<path>.new`, whatever the path's own ending.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        for (content, put) in [("one", write as fn(&Path, &[u8]) -> _), ("", write), ("three", replace)] {
            put(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn after_a_failure_the_old_content_is_there_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        // A directory cannot be replaced by a file.
        fs::create_dir(&path).unwrap();
        write(&path, b"new").unwrap_err();
        replace(&path, b"new").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
