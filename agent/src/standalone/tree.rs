//! What pods wrote into their directories: how much it is, and its end. Such trees can be of any depth and width.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

/// Names that are read at once.
const AT_ONCE: usize = 4096;

/// Removes a directory with all in it; not being there is success. Symbolic links are removed, never followed.
///
/// A tree may be deeper than any stack, and there may be fewer descriptors than levels: a directory in the tree that
/// is not empty is moved up to its top, so that only one level is looked at.
pub fn remove(path: &Path) -> io::Result<()> {
    let top = match open_directory(CWD, path.as_os_str().as_encoded_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0;
    loop {
        let names = names(top.as_fd())?;
        if names.is_empty() {
            return fs::remove_dir(path);
        }
        for name in names {
            remove_one(top.as_fd(), &name, top.as_fd(), &mut moved)?;
        }
    }
}

/// Removes `dir/name`, or, if it is a directory that is not empty, what is in it and moves the rest to the top.
fn remove_one(dir: BorrowedFd<'_>, name: &[u8], top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    if unlink(dir, name)? {
        return Ok(());
    }
    let directory = open_directory(dir, name)?;
    for child in names(directory.as_fd())? {
        if !unlink(directory.as_fd(), &child)? {
            move_up(directory.as_fd(), &child, top, moved)?;
        }
    }
    // Of a wide directory some is left; the caller looks again.
    unlink(dir, name).map(drop)
}

/// `false`: it is a directory that is not empty.
fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(true),
        other => return other.map(|()| true),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        other => other.map(|()| true),
    }
}

fn move_up(dir: BorrowedFd<'_>, name: &[u8], top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        match renameat_with(dir, name, top, format!(".moved-{moved}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            other => return other,
        }
    }
}

fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
        if names.len() == AT_ONCE {
            break;
        }
    }
    Ok(names)
}

/// Bytes on disk of a directory with all in it, as du(1) counts them. What goes away meanwhile is not counted.
pub fn usage(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(file) = entry.metadata() else { continue };
            let counts = file.nlink() == 1 || file.is_dir() || linked.insert((file.dev(), file.ino()));
            if counts {
                bytes += file.blocks() * 512;
            }
            if file.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn deep_wide_and_with_links_out() {
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        let tree = base.path().join("tree");
        fs::create_dir_all(tree.join("wide/.moved-1")).unwrap();
        for number in 0..5000 {
            fs::write(tree.join(format!("wide/{number}")), "").unwrap();
        }
        let canary = base.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        std::os::unix::fs::symlink(&canary, tree.join("out")).unwrap();
        std::os::unix::fs::symlink(&canary, tree.join("wide/out")).unwrap();
        let mut level = open_directory(CWD, tree.as_os_str().as_encoded_bytes()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&level, "d", Mode::RWXU).unwrap();
            level = open_directory(level.as_fd(), b"d").unwrap();
        }
        drop(level);
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "alive");
        remove(&tree).unwrap();
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(base.path().join("a"), vec![b'x'; 1 << 20]).unwrap();
        let one = usage(base.path());
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        fs::hard_link(base.path().join("a"), base.path().join("b")).unwrap();
        fs::create_dir(base.path().join("d")).unwrap();
        fs::write(base.path().join("d/c"), vec![b'x'; 1 << 20]).unwrap();
        assert!((2 << 20..3 << 20).contains(&usage(base.path())));
        assert_eq!(usage(Path::new("/nothing/here")), 0);
    }
}
