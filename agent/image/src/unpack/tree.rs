//! Writes a layer's files into its directory, every name relative to a descriptor.
//!
//! The directory is private (0700 parent) until it is committed, so the archive is the only adversary: its entries
//! may use links made by earlier ones. No path of the archive ever reaches the kernel: a path is walked one component
//! at a time with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`, and a symlink on the way to a parent is
//! read and followed here, with the layer as its root, as containerd does.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind, Limits};
use super::fault::{Fault, show};
use super::metadata::{Footprint, set_metadata, set_opaque, times};
use super::remove::remove_into;
use super::space::Space;
use super::walk::{BENEATH, Parent, components, file_type, is_whiteout, join, open_directory, stat};

/// A layer's directory while it is filled.
pub(crate) struct Tree<'a> {
    pub(super) root: BorrowedFd<'a>,
    trash: BorrowedFd<'a>,
    /// The last parent by its name in the archive; entries of one directory follow each other.
    pub(super) parent: Option<(Vec<u8>, Parent)>,
    /// Times of directories are set last, since every new entry changes them.
    times: Vec<(Vec<u8>, Timestamps)>,
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Directories with whiteouts.
    hiding: BTreeSet<Vec<u8>>,
    /// Memory of these three.
    remembered: u64,
    pub(super) footprint: Footprint,
    buffer: Vec<u8>,
    limits: &'a Limits,
    space: Space<'a>,
}

/// A tree with everything in it.
pub(crate) struct Finished {
    pub footprint: Footprint,
    /// Directories that no entry describes, sorted; empty path: the root.
    pub implied: Vec<Vec<u8>>,
    /// Directories with whiteouts, sorted.
    pub hiding: Vec<Vec<u8>>,
}

impl<'a> Tree<'a> {
    /// `root` is the empty directory to fill, `trash` one on the same file system for what entries replace.
    pub(crate) fn new(root: BorrowedFd<'a>, trash: BorrowedFd<'a>, limits: &'a Limits) -> Self {
        Self {
            root,
            trash,
            parent: None,
            times: Vec::new(),
            implied: BTreeSet::from([Vec::new()]),
            hiding: BTreeSet::new(),
            remembered: 0,
            footprint: Footprint { bytes: 4096, inodes: 1 },
            buffer: vec![0; 128 << 10],
            limits,
            space: Space::new(root, limits.reserve),
        }
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

    /// Sets the times of the directories, and says what is to be known of them.
    pub(crate) fn finish(mut self) -> Result<Finished, Fault> {
        for (path, times) in std::mem::take(&mut self.times) {
            // A later entry may have replaced it.
            let Ok(parts) = components(&path) else { continue };
            if let Some(fd) = self.open_plain(&parts) {
                fs::futimens(&fd, &times).map_err(|errno| Fault::call("futimens", &path, errno))?;
            }
        }
        Ok(Finished {
            footprint: self.footprint,
            implied: self.implied.into_iter().collect(),
            hiding: self.hiding.into_iter().collect(),
        })
    }

    /// The root is there already and stays a directory: builders that write it as a link to itself or as another thing
    /// mean nothing by that, and are passed over as in containerd.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Ok(());
        }
        set_metadata(self.root, entry)?;
        self.implied.remove(b"".as_slice());
        self.remember_times(Vec::new(), entry)?;
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
            Ok(()) => {
                self.footprint.add(0);
                if !self.hiding.contains(&parent.path) {
                    self.remember(&parent.path)?;
                    self.hiding.insert(parent.path.clone());
                }
            }
            Err(Errno::EXIST) => {
                if let Ok(fd) = open_directory(parent.fd.as_fd(), name) {
                    set_opaque(fd.as_fd(), &entry.path)?;
                    self.implied.remove(&join(&parent.path, name));
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
        self.remember_times(path, entry)?;
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
                self.space.take(got as u64)?;
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
            self.forget(&gone);
            return remove_into(parent.fd.as_fd(), name, self.trash)
                .map_err(|error| Fault::call("replace", path, error));
        }
        if old.st_nlink == 1 {
            self.footprint.inodes = self.footprint.inodes.saturating_sub(1);
            let size = if file_type(old) == FileType::RegularFile { old.st_blocks as u64 * 512 } else { 0 };
            self.footprint.bytes = self.footprint.bytes.saturating_sub(size);
        }
        fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|errno| Fault::call("unlink", path, errno))
    }

    /// Takes note of a directory's times; an archive of nothing but directories must not take all our memory.
    fn remember_times(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), Fault> {
        self.remember(&path)?;
        self.times.push((path, times(entry)));
        Ok(())
    }

    /// Counts a path that is kept.
    pub(super) fn remember(&mut self, path: &[u8]) -> Result<(), Fault> {
        const OVERHEAD: u64 = 64;
        self.remembered += path.len() as u64 + OVERHEAD;
        if self.remembered <= self.limits.remembered {
            return Ok(());
        }
        Err(Fault::TooLarge {
            what: "names of its directories".into(),
            limit: self.limits.remembered,
            unit: "bytes",
        })
    }

    /// A directory is gone, and what was known of it and below it.
    fn forget(&mut self, gone: &[u8]) {
        let below = join(gone, b"");
        for names in [&mut self.implied, &mut self.hiding] {
            names.remove(gone);
            let inside = names.range(below.clone()..).take_while(|name| name.starts_with(&below));
            for name in inside.cloned().collect::<Vec<_>>() {
                names.remove(&name);
            }
        }
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
