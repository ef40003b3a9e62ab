//! Names in an archive, and the way to a parent directory below a descriptor.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::fault::{Fault, show};
use super::metadata::set_opaque;
use super::tree::Tree;

pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Components of a path, and symlinks followed on the way to a parent (the kernel's MAXSYMLINKS).
const MOST_COMPONENTS: usize = 1024;
const MOST_LINKS: usize = 40;

/// A parent directory: its descriptor and its path without symlinks.
pub(super) struct Parent {
    pub fd: OwnedFd,
    pub path: Vec<u8>,
}

impl Tree<'_> {
    pub(super) fn take_parent(&mut self, parents: &[&[u8]]) -> Result<Parent, Fault> {
        let name = parents.join(&b'/');
        if let Some((known, parent)) = self.parent.take()
            && known == name
        {
            return Ok(parent);
        }
        self.walk(parents, true)?.ok_or_else(|| Fault::Corrupt(format!("{}: cannot be made", show(&name))))
    }

    pub(super) fn keep_parent(&mut self, parents: &[&[u8]], parent: Parent) {
        self.parent = Some((parents.join(&b'/'), parent));
    }

    /// Opens a path that has no symlink in it, if it still is there.
    pub(super) fn open_plain(&self, parts: &[&[u8]]) -> Option<OwnedFd> {
        let mut fd = open_directory(self.root, b".").ok()?;
        for part in parts {
            fd = open_directory(fd.as_fd(), part).ok()?;
        }
        Some(fd)
    }

    /// Walks to a directory; with `make` what is missing is made, otherwise it is `None`.
    pub(super) fn walk(&mut self, parts: &[&[u8]], make: bool) -> Result<Option<Parent>, Fault> {
        let shown = || show(&parts.join(&b'/'));
        let mut todo: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let root = self.root;
        let open_root = || open_directory(root, b".").map_err(|errno| Fault::call("open", b"", errno));
        let mut fd = open_root()?;
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                done.pop();
                let plain: Vec<&[u8]> = done.iter().map(Vec::as_slice).collect();
                fd = self
                    .open_plain(&plain)
                    .ok_or_else(|| Fault::Corrupt(format!("{}: cannot be reached", shown())))?;
                continue;
            }
            if done.len() >= MOST_COMPONENTS * 4 {
                return Err(too_deep());
            }
            match open_directory(fd.as_fd(), &part) {
                Ok(next) => fd = next,
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => fd = self.imply(&fd, &done, &part)?,
                Err(Errno::LOOP | Errno::NOTDIR) => match fs::readlinkat(&fd, &part[..], Vec::new()) {
                    Ok(target) => {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err(Fault::Corrupt(format!("{}: too many symlinks on the way", shown())));
                        }
                        let target = target.into_bytes();
                        if target.starts_with(b"/") {
                            done.clear();
                            fd = open_root()?;
                        }
                        for part in link_components(&target).into_iter().rev() {
                            todo.push_front(part);
                        }
                        if todo.len() > MOST_COMPONENTS * 4 {
                            return Err(too_deep());
                        }
                        continue;
                    }
                    Err(_) if !make => return Ok(None),
                    Err(_) => {
                        let whiteout = is_whiteout(&stat(fd.as_fd(), &part, &part)?);
                        if !whiteout {
                            return Err(Fault::Corrupt(format!(
                                "{}: {} is not a directory",
                                shown(),
                                show(&part)
                            )));
                        }
                        fs::unlinkat(&fd, &part[..], AtFlags::empty())
                            .map_err(|errno| Fault::call("unlink", &part, errno))?;
                        fd = self.imply(&fd, &done, &part)?;
                        set_opaque(fd.as_fd(), &part)?;
                        // Removed and made again: it has nothing to inherit.
                        self.implied.remove(&join(&done.join(&b'/'), &part));
                    }
                },
                Err(errno) => return Err(Fault::call("open", &part, errno)),
            }
            done.push(part);
        }
        Ok(Some(Parent { fd, path: done.join(&b'/') }))
    }

    /// A directory that no entry has described so far.
    fn imply(&mut self, parent: &OwnedFd, done: &[Vec<u8>], name: &[u8]) -> Result<OwnedFd, Fault> {
        fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| Fault::call("mkdir", name, errno))?;
        let fd = open_directory(parent.as_fd(), name).map_err(|errno| Fault::call("open", name, errno))?;
        // The process' umask and a set-group-id parent have no say.
        fs::fchown(&fd, Some(Uid::ROOT), Some(Gid::ROOT))
            .map_err(|errno| Fault::call("chown", name, errno))?;
        fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(|errno| Fault::call("chmod", name, errno))?;
        self.footprint.add(4096);
        let path = join(&done.join(&b'/'), name);
        self.remember(&path)?;
        self.implied.insert(path);
        Ok(fd)
    }
}

/// The components of an archive path. Leading slashes and `.` mean nothing; `..` has no honest use.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.len() > MOST_COMPONENTS {
        return Err(too_deep());
    }
    for part in &parts {
        if *part == b".." {
            return Err(Fault::Corrupt(format!("{}: the path leads upwards", show(path))));
        }
        if part.len() > 255 {
            return Err(Fault::TooLarge {
                what: format!("file name {}", show(part)),
                limit: 255,
                unit: "bytes",
            });
        }
        if part.contains(&0) {
            return Err(Fault::Corrupt(format!("{}: the path holds a NUL byte", show(path))));
        }
    }
    Ok(parts)
}

fn link_components(target: &[u8]) -> Vec<Vec<u8>> {
    let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.map(<[u8]>::to_vec).collect()
}

fn too_deep() -> Fault {
    Fault::TooLarge { what: "depth of a path".into(), limit: MOST_COMPONENTS as u64, unit: "directories" }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

/// A directory below another one; no symlink leads to it and no mount lies between.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat2(parent, name, flags, Mode::empty(), BENEATH)
}

pub(super) fn stat(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Stat, Fault> {
    fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| Fault::call("stat", path, errno))
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}
