//! Removes directory trees of any depth in constant stack and with a constant number of descriptors.
//!
//! A tree that a layer made may be 100,000 levels deep; recursion, or one descriptor a level, would end there. Here a
//! directory that is not empty is moved up into the trash directory, so that no level ever is deeper than two.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, Dir, RenameFlags};
use rustix::io::Errno;

use super::walk::open_directory;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Moves `parent/name` into the trash under a new name, at once and whole.
pub(crate) fn move_into(parent: BorrowedFd<'_>, name: &[u8], trash: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let new = format!("{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        match fs::renameat_with(parent, name, trash, &new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// Removes `parent/name`, whatever it is.
pub(crate) fn remove_into(parent: BorrowedFd<'_>, name: &[u8], trash: BorrowedFd<'_>) -> Result<(), Errno> {
    move_into(parent, name, trash)?;
    empty(trash)
}

/// Removes all that is in the trash directory. Others may do the same at the same time.
pub(crate) fn empty(trash: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        let mut found = false;
        for name in names(trash)? {
            found = true;
            match fs::unlinkat(trash, &name[..], AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => empty_directory(trash, &name)?,
                Err(errno) => return Err(errno),
            }
        }
        if !found {
            return Ok(());
        }
    }
}

/// Removes `trash/name` with its files; directories in it that are not empty move up beside it.
fn empty_directory(trash: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(trash, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let directory: OwnedFd = match open_directory(trash, name) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for child in names(directory.as_fd())? {
        let done = match fs::unlinkat(&directory, &child[..], AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => match fs::unlinkat(&directory, &child[..], AtFlags::REMOVEDIR)
            {
                Err(Errno::NOTEMPTY | Errno::EXIST) => move_into(directory.as_fd(), &child, trash),
                other => other,
            },
            other => other,
        };
        match done {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    match fs::unlinkat(trash, name, AtFlags::REMOVEDIR) {
        // Somebody else's trash may still be on the way out; the caller looks again.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Names in a directory, at most some thousands at a time: callers look again until none is left.
fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    const AT_ONCE: usize = 4096;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
            if names.len() == AT_ONCE {
                break;
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_100000_levels_deep() {
        // In memory where there is such a place: a disk that discards needs a minute for it.
        let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let open = |name: &str| OwnedFd::from(std::fs::File::open(base.path().join(name)).unwrap());
        std::fs::create_dir(base.path().join("trash")).unwrap();
        std::fs::create_dir(base.path().join("tree")).unwrap();
        let mut fd = open("tree");
        for level in 0..100_000 {
            fs::mkdirat(&fd, "d", fs::Mode::RWXU).unwrap();
            if level % 1000 == 0 {
                fs::symlinkat("/", &fd, "link").unwrap();
            }
            fd = open_directory(fd.as_fd(), b"d").unwrap();
        }
        let root = open(".");
        remove_into(root.as_fd(), b"tree", open("trash").as_fd()).unwrap();
        assert!(!base.path().join("tree").exists());
        assert_eq!(std::fs::read_dir(base.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn wide_directories_and_symlinks_out() {
        let base = tempfile::tempdir().unwrap();
        let canary = tempfile::tempdir().unwrap();
        std::fs::write(canary.path().join("canary"), "alive").unwrap();
        let tree = base.path().join("tree/sub");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::create_dir(base.path().join("trash")).unwrap();
        for at in 0..9000 {
            std::fs::write(tree.join(at.to_string()), "").unwrap();
        }
        std::os::unix::fs::symlink(canary.path(), tree.join("out")).unwrap();
        let open = |name: &str| OwnedFd::from(std::fs::File::open(base.path().join(name)).unwrap());
        remove_into(open(".").as_fd(), b"tree", open("trash").as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(base.path().join("trash")).unwrap().count(), 0);
        assert_eq!(std::fs::read_to_string(canary.path().join("canary")).unwrap(), "alive");
    }
}
