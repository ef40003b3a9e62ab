//! Paths inside a container's root: resolved by descriptor, so that no symlink, `..` or rename leads out of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::error::{CallError, Result};
use crate::failpoint;

/// Symlinks that one path may have, as in the kernel (MAXSYMLINKS).
const MAX_SYMLINKS: usize = 40;

/// Limit on the lookups of a path that renames elsewhere disturb; libpathrs has the same.
const MAX_TRIES: usize = 128;

/// A directory that paths are resolved in as if it were `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// What [`Root::ensure`] makes at the end of a path that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, 0755.
    Directory,
    /// An empty file, 0644.
    File,
}

impl Root {
    /// `fd` is the directory, perhaps an O_PATH descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The directory itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens what is there, following symlinks within the root (openat2(2), RESOLVE_IN_ROOT).
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP as for open(2); ELOOP also for a magic link of procfs. EAGAIN if the path has a `..` and
    /// somebody renames directories all the time.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        self.open_with(path, flags, ResolveFlags::empty())
    }

    /// As [`Root::open`], and no part of the path may be a symlink.
    pub fn open_plain(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        self.open_with(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    fn open_with(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let try_once = || openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        again_while_disturbed(try_once).map_err(|e| call_failed("openat2", path, e))
    }

    /// Opens `path` as O_PATH and makes what is missing of it, also behind symlinks that lead nowhere.
    ///
    /// # Errors
    /// ENOTDIR or EISDIR if what is there is not of that kind, EROFS on a read-only file system.
    pub fn ensure(&self, path: &Path, kind: Kind) -> Result<OwnedFd> {
        let found = match self.open(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(e) if e.is(Errno::NOENT) => self.make(path, kind)?,
            Err(e) => return Err(e),
        };
        match (is_directory(&found, path)?, kind) {
            (true, Kind::File) => Err(call_failed("open", path, Errno::ISDIR)),
            (false, Kind::Directory) => Err(call_failed("open", path, Errno::NOTDIR)),
            _ => Ok(found),
        }
    }

    /// The directory that holds `path`, made if it is missing, and the path's last name.
    pub fn ensure_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| call_failed("open", path, Errno::INVAL))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.ensure(parent, Kind::Directory)?, name))
    }

    /// Walks one name at a time, without ever following a symlink by the kernel: a link's text is walked as well,
    /// from here. What is missing is made on the way.
    fn make(&self, path: &Path, kind: Kind) -> Result<OwnedFd> {
        let failed = |e| call_failed("make", path, e);
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut todo: VecDeque<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                above.pop();
                continue;
            }
            let at = above.last().unwrap_or(&self.fd);
            let (next, made) = match open_name(at, &name) {
                Ok(next) => (next, false),
                Err(Errno::NOENT) => {
                    let kind = if todo.is_empty() { kind } else { Kind::Directory };
                    (make_name(at, &name, kind).map_err(failed)?, true)
                }
                Err(e) => return Err(failed(e)),
            };
            match FileType::from_raw_mode(fstat(&next).map_err(failed)?.st_mode) {
                FileType::Symlink if made => return Err(failed(Errno::AGAIN)),
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(failed(Errno::LOOP));
                    }
                    let target = readlinkat(&next, c"", Vec::new()).map_err(failed)?.into_bytes();
                    let target = PathBuf::from(OsString::from_vec(target));
                    if target.is_absolute() {
                        above.clear();
                    }
                    for name in names(&target).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                FileType::Directory => above.push(next),
                _ if todo.is_empty() => return Ok(next),
                _ => return Err(failed(Errno::NOTDIR)),
            }
        }
        match above.pop() {
            Some(last) => Ok(last),
            None => self.open(Path::new("/"), OFlags::PATH),
        }
    }
}

/// A rename anywhere on the system came between: the kernel could not be sure, and says try again.
fn again_while_disturbed<T>(try_once: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 1..MAX_TRIES {
        match try_once() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    try_once()
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn open_name(at: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn make_name(at: &OwnedFd, name: &OsStr, kind: Kind) -> rustix::io::Result<OwnedFd> {
    match kind {
        Kind::Directory => match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
            // Somebody else was faster; what it is, is looked at by our caller.
            Ok(()) | Err(Errno::EXIST) => open_name(at, name),
            Err(e) => Err(e),
        },
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            match openat(at, name, flags, Mode::from_raw_mode(0o644)) {
                Ok(_) | Err(Errno::EXIST) => open_name(at, name),
                Err(e) => Err(e),
            }
        }
    }
}

/// Makes the host's directory `path` and those above it, 0755 less the umask, if nothing is there: `mkdir -p`. The part
/// that is there is looked up as always, symlinks and all. From the first missing name on every directory is made and
/// opened below its parent's descriptor, and no symlink is followed: whoever may write there cannot lead the rest
/// elsewhere. Whether anything was made.
///
/// # Errors
/// ELOOP or ENOTDIR where a symlink that leads nowhere stands in the way, EINVAL for `..` in the missing part.
pub fn make_directories(path: &Path) -> Result<bool> {
    const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    let failed = |e| call_failed("make", path, e);
    let (mut missing, mut there) = (Vec::new(), path);
    let mut at = loop {
        let flags = if missing.is_empty() { OFlags::PATH | OFlags::CLOEXEC } else { DIRECTORY };
        match openat(CWD, there, flags, Mode::empty()) {
            Ok(_) if missing.is_empty() => return Ok(false),
            Ok(fd) => break fd,
            Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
        missing.push(there.file_name().ok_or_else(|| failed(Errno::INVAL))?);
        there = there.parent().ok_or_else(|| failed(Errno::NOENT))?;
    };
    for name in missing.into_iter().rev() {
        failpoint::call("sys.mkdir")?;
        match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        at = openat(&at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
    }
    Ok(true)
}

/// Is it a directory?
pub fn is_directory(fd: impl AsFd, path: &Path) -> Result<bool> {
    let stat = fstat(fd).map_err(|e| call_failed("fstat", path, e))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A path that means the same open file, for calls that take only paths.
pub fn of_descriptor(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn call_failed(call: &str, path: &Path, errno: Errno) -> CallError {
    CallError::new(format!("{call}(\"{}\")", path.as_os_str().as_bytes().escape_ascii()), errno)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root, PathBuf) {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let fd = openat(rustix::fs::CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (outside, Root::new(fd), path)
    }

    fn same(fd: &OwnedFd, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        fstat(fd).unwrap().st_ino == std::fs::symlink_metadata(path).unwrap().ino()
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let (_dir, root, path) = root();
        let fd = root.ensure(Path::new("/a/b/c"), Kind::Directory).unwrap();
        assert!(same(&fd, &path.join("a/b/c")));
        let fd = root.ensure(Path::new("etc/hosts"), Kind::File).unwrap();
        assert!(same(&fd, &path.join("etc/hosts")));
        assert!(root.ensure(Path::new("/etc/hosts"), Kind::Directory).unwrap_err().is(Errno::NOTDIR));
        assert!(root.ensure(Path::new("/a/b"), Kind::File).unwrap_err().is(Errno::ISDIR));
        assert!(root.ensure(Path::new("/etc/hosts/x"), Kind::File).unwrap_err().is(Errno::NOTDIR));
    }

    #[test]
    fn symlinks_stay_within_the_root() {
        let (outside, root, path) = root();
        let canary = outside.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        for (name, target) in [
            ("absolute", canary.to_str().unwrap()),
            ("up", "../canary"),
            ("far", "../../../../../../../../canary"),
            ("chain", "up/../far"),
        ] {
            symlink(target, path.join(name)).unwrap();
            root.ensure(&Path::new("/").join(name).join("made"), Kind::Directory).unwrap();
        }
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
        assert!(path.join("canary/made").is_dir());
        root.ensure(Path::new("../../canary/dots"), Kind::File).unwrap();
        assert!(path.join("canary/dots").is_file());
    }

    #[test]
    fn a_dangling_link_is_followed_and_a_loop_ends() {
        let (_dir, root, path) = root();
        std::fs::create_dir(path.join("etc")).unwrap();
        symlink("../run/resolv.conf", path.join("etc/resolv.conf")).unwrap();
        let fd = root.ensure(Path::new("/etc/resolv.conf"), Kind::File).unwrap();
        assert!(same(&fd, &path.join("run/resolv.conf")));
        symlink("b", path.join("a")).unwrap();
        symlink("a", path.join("b")).unwrap();
        assert!(root.ensure(Path::new("/a/x"), Kind::Directory).unwrap_err().is(Errno::LOOP));
        symlink("/", path.join("top")).unwrap();
        assert!(root.ensure(Path::new("/top/new"), Kind::Directory).is_ok());
        assert!(path.join("new").is_dir());
    }

    #[test]
    fn directories_of_the_host_are_made_once_and_through_no_planted_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(make_directories(&at("a/b/c")).unwrap());
        assert!(at("a/b/c").is_dir());
        assert!(!make_directories(&at("a/b/c")).unwrap());
        // What is there is a host's own, links and files too.
        symlink("a", at("link")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        assert!(make_directories(&at("link/b/new/er")).unwrap());
        assert!(at("a/b/new/er").is_dir());
        assert!(!make_directories(&at("file")).unwrap());
        assert!(make_directories(&at("file/x")).unwrap_err().is(Errno::NOTDIR));
        // A link that leads nowhere is not made to lead somewhere.
        symlink("nowhere", at("dangling")).unwrap();
        for path in ["dangling", "dangling/x"] {
            assert!(make_directories(&at(path)).unwrap_err().is(Errno::NOTDIR), "{path}");
        }
        assert!(!at("nowhere").exists());
        assert!(make_directories(&at("new/../up")).unwrap_err().is(Errno::INVAL));
        assert!(!at("new").exists() && !at("up").exists());
    }

    #[test]
    fn disturbances_end() {
        let tries = std::cell::Cell::new(0);
        let disturbed = |until: usize| {
            again_while_disturbed(|| {
                tries.set(tries.get() + 1);
                if tries.get() < until { Err(Errno::AGAIN) } else { Ok(()) }
            })
        };
        assert_eq!((disturbed(MAX_TRIES), tries.take()), (Ok(()), MAX_TRIES));
        assert_eq!((disturbed(MAX_TRIES + 1), tries.take()), (Err(Errno::AGAIN), MAX_TRIES));
    }

    #[test]
    fn plain_means_no_symlink_at_all() {
        let (_dir, root, path) = root();
        std::fs::create_dir(path.join("real")).unwrap();
        symlink("real", path.join("link")).unwrap();
        assert!(root.open(Path::new("/link"), OFlags::PATH).is_ok());
        assert!(root.open_plain(Path::new("/link"), OFlags::PATH).unwrap_err().is(Errno::LOOP));
        assert!(root.open_plain(Path::new("/real"), OFlags::PATH).is_ok());
    }
}
