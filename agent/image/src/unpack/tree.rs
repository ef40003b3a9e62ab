//! Writes a layer's files into its directory, every name relative to a descriptor.
//!
//! The directory is private (0700 parent) until it is committed, so the archive is the only adversary: its entries
//! may use links made by earlier ones. No path of the archive ever reaches the kernel: a path is walked one component
//! at a time with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, and a symlink on the way to a parent is
//! read and followed here, with the layer as its root, as containerd does.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::fault::{Fault, show};
use super::remove::remove_into;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Components of a path, and symlinks followed on the way to a parent (the kernel's MAXSYMLINKS).
const MOST_COMPONENTS: usize = 1024;
const MOST_LINKS: usize = 40;

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes, in blocks of 4 KiB.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Footprint {
    fn add(&mut self, size: u64) {
        self.bytes += size.next_multiple_of(4096);
        self.inodes += 1;
    }
}

/// A parent directory: its descriptor and its path without symlinks.
struct Parent {
    fd: OwnedFd,
    path: Vec<u8>,
}

/// A layer's directory while it is filled.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    trash: BorrowedFd<'a>,
    /// The last parent by its name in the archive; entries of one directory follow each other.
    parent: Option<(Vec<u8>, Parent)>,
    /// Times of directories are set last, since every new entry changes them.
    times: Vec<(Vec<u8>, Timestamps)>,
    implied: std::collections::BTreeSet<Vec<u8>>,
    footprint: Footprint,
    buffer: Vec<u8>,
    reserve: u64,
    written_since_check: u64,
}

/// Data is looked at for space on the disk after so many bytes.
const CHECK_SPACE_EVERY: u64 = 64 << 20;

impl<'a> Tree<'a> {
    /// `root` is the empty directory to fill, `trash` one on the same file system for what entries replace.
    pub(crate) fn new(root: BorrowedFd<'a>, trash: BorrowedFd<'a>, reserve: u64) -> Self {
        Self {
            root,
            trash,
            parent: None,
            times: Vec::new(),
            implied: std::collections::BTreeSet::from([Vec::new()]),
            footprint: Footprint { bytes: 4096, inodes: 1 },
            buffer: vec![0; 128 << 10],
            reserve,
            written_since_check: CHECK_SPACE_EVERY,
        }
    }

    pub(crate) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Makes what the entry says; later entries win over earlier ones.
    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<'_, impl std::io::Read>,
    ) -> Result<(), Fault> {
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.apply_root(entry);
        };
        if let Some(odd) = parents.iter().find(|part| part.starts_with(b".wh.")) {
            if odd.starts_with(b".wh..wh.") {
                return Ok(()); // below aufs' own directories
            }
            return Err(Fault::Corrupt(format!("{}: a whiteout cannot be a directory", show(&entry.path))));
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parents, hidden, entry);
        }
        if entry.kind == Kind::Character && entry.device == (0, 0) {
            return self.hide(parents, name, entry);
        }
        match entry.kind {
            Kind::Directory => self.directory(parents, name, entry),
            Kind::File => self.file(parents, name, entry, archive),
            Kind::Symlink => self.symlink(parents, name, entry),
            Kind::HardLink => self.hard_link(parents, name, entry),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(parents, name, entry),
        }
    }

    /// Sets the times of the directories and says which of them no entry described.
    pub(crate) fn finish(mut self) -> Result<(Footprint, Vec<Vec<u8>>), Fault> {
        for (path, times) in std::mem::take(&mut self.times) {
            // A later entry may have replaced it.
            let Ok(parts) = components(&path) else { continue };
            if let Some(fd) = self.open_plain(&parts) {
                fs::futimens(&fd, &times).map_err(|errno| Fault::call("futimens", &path, errno))?;
            }
        }
        Ok((self.footprint, self.implied.into_iter().collect()))
    }

    fn apply_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Corrupt(format!("{}: the root of a layer is a directory", show(&entry.path))));
        }
        set_metadata(self.root, entry)?;
        self.implied.remove(b"".as_slice());
        self.times.push((Vec::new(), times(entry)));
        Ok(())
    }

    fn whiteout(&mut self, parents: &[&[u8]], hidden: &[u8], entry: &Entry) -> Result<(), Fault> {
        if entry.kind == Kind::Directory {
            return Err(Fault::Corrupt(format!("{}: a whiteout cannot be a directory", show(&entry.path))));
        }
        match hidden {
            b".wh..opq" => {
                let parent = self.take_parent(parents)?;
                set_opaque(parent.fd.as_fd(), &entry.path)?;
                self.keep_parent(parents, parent);
                Ok(())
            }
            b"" | b"." | b".." => {
                Err(Fault::Corrupt(format!("{}: a whiteout of no file", show(&entry.path))))
            }
            _ if hidden.starts_with(b".wh.") => Ok(()), // aufs' own files
            _ => self.hide(parents, hidden, entry),
        }
    }

    /// Hides a name of the layers below. What this layer itself has under the name stays visible (image-spec,
    /// layer.md): a file hides the lower one anyway, a directory has to become opaque.
    fn hide(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let parent = self.take_parent(parents)?;
        match fs::mknodat(&parent.fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => self.footprint.add(0),
            Err(Errno::EXIST) => {
                if let Ok(fd) = open_directory(parent.fd.as_fd(), name) {
                    set_opaque(fd.as_fd(), &entry.path)?;
                }
            }
            Err(errno) => return Err(Fault::call("mknod whiteout", &entry.path, errno)),
        }
        self.keep_parent(parents, parent);
        Ok(())
    }

    fn directory(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let parent = self.take_parent(parents)?;
        let mut opaque = false;
        loop {
            match fs::mkdirat(&parent.fd, name, Mode::RWXU) {
                Ok(()) => {
                    self.footprint.add(4096);
                    break;
                }
                Err(Errno::EXIST) => {
                    let old = stat(parent.fd.as_fd(), name, &entry.path)?;
                    if file_type(&old) == FileType::Directory {
                        break;
                    }
                    opaque |= is_whiteout(&old);
                    self.displace(&parent, name, &entry.path, &old)?;
                }
                Err(errno) => return Err(Fault::call("mkdir", &entry.path, errno)),
            }
        }
        let fd = open_directory(parent.fd.as_fd(), name)
            .map_err(|errno| Fault::call("open", &entry.path, errno))?;
        set_metadata(fd.as_fd(), entry)?;
        if opaque {
            set_opaque(fd.as_fd(), &entry.path)?;
        }
        let path = join(&parent.path, name);
        self.implied.remove(&path);
        self.times.push((path, times(entry)));
        self.keep_parent(parents, parent);
        Ok(())
    }

    fn file(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<'_, impl std::io::Read>,
    ) -> Result<(), Fault> {
        let parent = self.take_parent(parents)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.create(&parent, name, &entry.path, "create", |parent| {
            fs::openat2(parent, name, flags, Mode::RUSR | Mode::WUSR, BENEATH)
        })?;
        let mut data_bytes = 0;
        for (offset, length) in &entry.pieces {
            let mut at = *offset;
            let end = offset + length;
            while at < end {
                let want = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let got = archive.read_data(&mut self.buffer[..want])?;
                if got == 0 {
                    return Err(Fault::Corrupt(format!("{}: the data ends too early", show(&entry.path))));
                }
                self.check_space(got as u64)?;
                write_at(&fd, &self.buffer[..got], at)
                    .map_err(|errno| Fault::call("write", &entry.path, errno))?;
                at += got as u64;
            }
            data_bytes += length;
        }
        if data_bytes != entry.size {
            fs::ftruncate(&fd, entry.size).map_err(|errno| Fault::call("ftruncate", &entry.path, errno))?;
        }
        set_metadata(fd.as_fd(), entry)?;
        fs::futimens(&fd, &times(entry)).map_err(|errno| Fault::call("futimens", &entry.path, errno))?;
        self.footprint.add(data_bytes);
        self.keep_parent(parents, parent);
        Ok(())
    }

    fn symlink(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        if entry.link.is_empty() {
            return Err(Fault::Corrupt(format!("{}: a symlink to nothing", show(&entry.path))));
        }
        let parent = self.take_parent(parents)?;
        self.create(&parent, name, &entry.path, "symlink", |parent| {
            fs::symlinkat(&entry.link[..], parent, name)
        })?;
        self.set_metadata_by_name(&parent, name, entry, false)?;
        self.keep_parent(parents, parent);
        Ok(())
    }

    fn node(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let kind = match entry.kind {
            Kind::Character => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = fs::makedev(entry.device.0, entry.device.1);
        let parent = self.take_parent(parents)?;
        self.create(&parent, name, &entry.path, "mknod", |parent| {
            fs::mknodat(parent, name, kind, Mode::empty(), device)
        })?;
        self.set_metadata_by_name(&parent, name, entry, true)?;
        self.keep_parent(parents, parent);
        Ok(())
    }

    fn hard_link(&mut self, parents: &[&[u8]], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let refused = |reason: &str| {
            Fault::Corrupt(format!("{}: hard link to {}: {reason}", show(&entry.path), show(&entry.link)))
        };
        let parts = components(&entry.link)?;
        let Some((old_name, old_parents)) = parts.split_last() else {
            return Err(refused("a hard link cannot lead to a directory"));
        };
        let old_parent =
            self.walk(old_parents, false)?.ok_or_else(|| refused("the layer has no such file before it"))?;
        let old = stat(old_parent.fd.as_fd(), old_name, &entry.link)
            .map_err(|_| refused("the layer has no such file before it"))?;
        if file_type(&old) == FileType::Directory {
            return Err(refused("a hard link cannot lead to a directory"));
        }
        if is_whiteout(&old) {
            return Err(refused("the layer has no such file before it"));
        }
        let parent = self.take_parent(parents)?;
        if parent.path == old_parent.path && name == *old_name {
            return Err(refused("it is the file itself"));
        }
        self.create(&parent, name, &entry.path, "link", |parent| {
            fs::linkat(&old_parent.fd, *old_name, parent, name, AtFlags::empty())
        })?;
        self.keep_parent(parents, parent);
        Ok(())
    }

    /// Makes a name that may be taken: the older one gives way.
    fn create<T>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        path: &[u8],
        call: &str,
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        match make(parent.fd.as_fd()) {
            Err(Errno::EXIST) => {
                let old = stat(parent.fd.as_fd(), name, path)?;
                self.displace(parent, name, path, &old)?;
                make(parent.fd.as_fd()).map_err(|errno| Fault::call(call, path, errno))
            }
            other => other.map_err(|errno| Fault::call(call, path, errno)),
        }
    }

    /// Takes an older entry away.
    fn displace(&mut self, parent: &Parent, name: &[u8], path: &[u8], old: &Stat) -> Result<(), Fault> {
        self.parent = None;
        if file_type(old) == FileType::Directory {
            let gone = join(&parent.path, name);
            let below = join(&gone, b"");
            self.implied.retain(|known| *known != gone && !known.starts_with(&below));
            return remove_into(parent.fd.as_fd(), name, self.trash)
                .map_err(|errno| Fault::call("replace", path, errno));
        }
        if old.st_nlink == 1 {
            self.footprint.inodes = self.footprint.inodes.saturating_sub(1);
            let size = if file_type(old) == FileType::RegularFile { old.st_blocks as u64 * 512 } else { 0 };
            self.footprint.bytes = self.footprint.bytes.saturating_sub(size);
        }
        fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|errno| Fault::call("unlink", path, errno))
    }

    /// Owner, mode and time of what has no descriptor of its own; opening a device or a FIFO has effects.
    fn set_metadata_by_name(
        &mut self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
        mode: bool,
    ) -> Result<(), Fault> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::chownat(&parent.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Fault::call("chown", &entry.path, errno))?;
        if mode {
            // fchmodat follows symlinks, but this name was just made by us and nobody else writes here.
            fs::chmodat(&parent.fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|errno| Fault::call("chmod", &entry.path, errno))?;
        }
        fs::utimensat(&parent.fd, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Fault::call("utimensat", &entry.path, errno))?;
        self.footprint.add(0);
        Ok(())
    }

    fn check_space(&mut self, more: u64) -> Result<(), Fault> {
        self.written_since_check += more;
        if self.written_since_check < CHECK_SPACE_EVERY {
            return Ok(());
        }
        self.written_since_check = 0;
        let disk = fs::fstatvfs(self.root).map_err(|errno| Fault::call("statvfs", b"", errno))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.reserve + CHECK_SPACE_EVERY {
            let operation = format!(
                "write: less than {} MiB are free on the disk of the image store",
                (self.reserve + CHECK_SPACE_EVERY) >> 20
            );
            return Err(Fault::Io { operation, source: Errno::NOSPC.into() });
        }
        Ok(())
    }

    fn take_parent(&mut self, parents: &[&[u8]]) -> Result<Parent, Fault> {
        let name = parents.join(&b'/');
        if let Some((known, parent)) = self.parent.take()
            && known == name
        {
            return Ok(parent);
        }
        self.walk(parents, true)?.ok_or_else(|| Fault::Corrupt(format!("{}: cannot be made", show(&name))))
    }

    fn keep_parent(&mut self, parents: &[&[u8]], parent: Parent) {
        self.parent = Some((parents.join(&b'/'), parent));
    }

    /// Opens a path that has no symlink in it, if it still is there.
    fn open_plain(&self, parts: &[&[u8]]) -> Option<OwnedFd> {
        let mut fd = open_directory(self.root, b".").ok()?;
        for part in parts {
            fd = open_directory(fd.as_fd(), part).ok()?;
        }
        Some(fd)
    }

    /// Walks to a directory; with `make` what is missing is made, otherwise it is `None`.
    fn walk(&mut self, parts: &[&[u8]], make: bool) -> Result<Option<Parent>, Fault> {
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
        self.implied.insert(join(&done.join(&b'/'), name));
        Ok(fd)
    }
}

/// The components of an archive path. Leading slashes and `.` mean nothing; `..` has no honest use.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, Fault> {
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

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat2(parent, name, flags, Mode::empty(), BENEATH)
}

fn stat(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Stat, Fault> {
    fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| Fault::call("stat", path, errno))
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), Fault> {
    fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(|errno| Fault::call("set trusted.overlay.opaque for", path, errno))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner first: chown takes set-id bits and file capabilities away.
fn set_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::fchown(fd, Some(uid), Some(gid)).map_err(|errno| Fault::call("chown", &entry.path, errno))?;
    fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .map_err(|errno| Fault::call("chmod", &entry.path, errno))?;
    for (name, value) in &entry.xattrs {
        // trusted.* and user.overlay.* would speak to overlayfs, security.selinux and the like to the host.
        let wanted = name == b"security.capability"
            || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name.len() <= 255);
        if !wanted {
            continue;
        }
        match fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()) {
            // A file system without them is the operator's choice.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => {
                let call = format!("set xattr {} of", name.escape_ascii());
                return Err(if matches!(errno, Errno::NOSPC | Errno::IO | Errno::NOMEM) {
                    Fault::call(&call, &entry.path, errno)
                } else {
                    Fault::Corrupt(format!("{call} {}: {errno}", show(&entry.path)))
                });
            }
        }
    }
    Ok(())
}

fn write_at(fd: &OwnedFd, mut data: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(fd, data, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
