//! What pods and images put into directories: how much it is, and its end. Such trees can be of any depth and width, and
//! they are what has to go when the disk is full.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with,
        statat, unlinkat,
    },
    io::Errno,
};

/// Names that are read at once.
const AT_ONCE: usize = 4096;

/// Levels that are looked at below each other when nothing can be moved up.
const DEEPEST: usize = 64;

/// Removes a directory with all in it; not being there is success. Symbolic links are removed, never followed.
///
/// A tree may be deeper than any stack, and there may be fewer descriptors than levels: a directory in the tree that
/// is not empty is moved up to its top, so that only one level is looked at. On a full disk there may be no room for
/// another name at the top: then the levels below are looked at, as many as there are, until something has gone.
///
/// A container's end and its removal may both be at it: what another takes away meanwhile is gone all the same.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_at(CWD, path)
}

/// The same for a name below a directory.
pub fn remove_at(parent: impl AsFd, name: &Path) -> io::Result<()> {
    match remove_top(parent.as_fd(), name.as_os_str().as_bytes()) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// Removes all that is in a directory. Others may do the same at the same time.
pub fn empty(directory: impl AsFd) -> io::Result<()> {
    let top = directory.as_fd();
    let mut moved = 0;
    while !clear(top, &mut moved)? {}
    Ok(())
}

fn remove_top(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let top = open_directory(parent, name)?;
    let mut moved = 0;
    loop {
        if clear(top.as_fd(), &mut moved)? {
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                // The other one has just moved something up.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                result => return result,
            }
        }
    }
}

/// Takes away some of what is in `top`; `true`: there was nothing.
fn clear(top: BorrowedFd<'_>, moved: &mut u64) -> Result<bool, Errno> {
    let names = names(top)?;
    for name in &names {
        match remove_one(top, name, top, moved, DEEPEST) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(names.is_empty())
}

/// Removes `dir/name`, or, if it is a directory that is not empty, what is in it and moves the rest to the top.
fn remove_one(
    dir: BorrowedFd<'_>,
    name: &[u8],
    top: BorrowedFd<'_>,
    moved: &mut u64,
    levels: usize,
) -> Result<(), Errno> {
    if unlink(dir, name)? {
        return Ok(());
    }
    let directory = open_directory(dir, name)?;
    for child in names(directory.as_fd())? {
        if unlink(directory.as_fd(), &child)? {
            continue;
        }
        match move_up(directory.as_fd(), &child, top, moved) {
            Err(Errno::NOSPC | Errno::DQUOT) if levels > 0 => {
                match remove_one(directory.as_fd(), &child, top, moved, levels - 1) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            other => other?,
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

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, as du(1) counts them.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// What is in a directory, a file with several names once. What goes away meanwhile is not counted, nor what lies so deep
/// that no path leads there. Whoever writes in there may swap a directory for a link: none is followed.
pub fn usage(path: &Path) -> Usage {
    let mut usage = Usage::default();
    let Ok(top) = open_directory(CWD, path.as_os_str().as_encoded_bytes()) else { return usage };
    let mut linked = HashSet::new();
    let mut directories = vec![PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let Ok(opened) = openat2(&top, &directory, flags, Mode::empty(), resolve) else { continue };
        let Ok(entries) = Dir::read_from(&opened) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(file) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(file.st_mode) == FileType::Directory;
            if file.st_nlink == 1 || is_directory || linked.insert(file.st_ino) {
                usage.bytes += file.st_blocks.unsigned_abs() * 512;
                usage.inodes += 1;
            }
            if is_directory {
                directories.push(directory.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    usage
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

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
    fn a_race_of_two_for_one_tree() {
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        for round in 0..200 {
            let tree = base.path().join(round.to_string());
            fs::create_dir_all(tree.join("a/b/c")).unwrap();
            for file in ["x", "a/x", "a/b/x", "a/b/c/x"] {
                fs::write(tree.join(file), "").unwrap();
            }
            let both = std::thread::scope(|scope| {
                let other = scope.spawn(|| remove(&tree));
                (remove(&tree), other.join().unwrap())
            });
            assert!(matches!(both, (Ok(()), Ok(()))), "{round}: {both:?}");
            assert!(!tree.exists());
        }
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let base = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(base.path().join("a"), vec![b'x'; 1 << 20]).unwrap();
        let bytes = |path: &Path| usage(path).bytes;
        let one = bytes(base.path());
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        fs::hard_link(base.path().join("a"), base.path().join("b")).unwrap();
        fs::create_dir(base.path().join("d")).unwrap();
        fs::write(base.path().join("d/c"), vec![b'x'; 1 << 20]).unwrap();
        assert!((2 << 20..3 << 20).contains(&bytes(base.path())));
        assert_eq!(usage(base.path()).inodes, 3, "a and b are one");
        std::os::unix::fs::symlink("/usr", base.path().join("out")).unwrap();
        assert_eq!(usage(base.path()).inodes, 4);
        assert_eq!(usage(Path::new("/nothing/here")), Usage::default());
    }
}
