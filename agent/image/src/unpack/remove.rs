//! Takes things out of the way: into a trash directory at once and whole, where they end.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, RenameFlags};
use rustix::io::Errno;

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
pub(crate) fn remove_into(parent: BorrowedFd<'_>, name: &[u8], trash: BorrowedFd<'_>) -> io::Result<()> {
    move_into(parent, name, trash)?;
    holdfast_tree::empty(trash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::super::walk::open_directory;
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
}
