//! The directories of the store, and the private ones in which things are made before they are shown.
//!
//! ```text
//! images/<hex>.json    by image: its record, see the module `records`
//! layers/<hex>/        by diff_id: `fs` holds the layer's files, `layer.json` what was learnt while unpacking it
//! directories/<hex>/   by image: see the module of this name
//! blobs/sha256/<hex>   manifests and configurations
//! empty/               the root of an image without layers
//! work/<n>/            what is in progress
//! trash/<n>            what is on its way out
//! store.redb           a sign for programs that kept their records there, see the module `legacy`
//! ```
//!
//! `work` and `trash` never survive a start. A directory under another name than `work` and `trash` is complete.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::janitor::{Bins, Janitor};
use crate::Error;
use crate::blocking::failpoint;
use crate::digest::Digest;

const DIRECTORIES: [&str; 7] = ["images", "layers", "directories", "blobs/sha256", "empty", "work", "trash"];

/// The store's directories, open.
#[derive(Debug)]
pub(crate) struct Home {
    /// Absolute.
    path: PathBuf,
    /// Locked: the store belongs to one process.
    root: OwnedFd,
    pub(super) images: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) directories: OwnedFd,
    pub(super) blobs: OwnedFd,
    bins: Arc<Bins>,
    janitor: Janitor,
}

impl Home {
    /// Takes the store's directory and makes what is missing there. Blocking, on a tokio runtime.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let make = |path: &Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::Io {
                operation: format!("make directory {}", path.display()),
                source,
            })
        };
        make(root)?;
        let path = std::fs::canonicalize(root)
            .map_err(|source| Error::Io { operation: format!("find {}", root.display()), source })?;
        let open = |name: &str| {
            open_directory(CWD, &path.join(name))
                .map_err(|errno| Error::io(format!("open {}", path.join(name).display()), errno))
        };
        let root = open(".")?;
        fs::flock(&root, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => Error::InUse { path: path.clone() },
            errno => Error::io(format!("lock {}", path.display()), errno),
        })?;
        for name in DIRECTORIES {
            make(&path.join(name))?;
        }
        fs::chmod(path.join("empty"), Mode::from_raw_mode(0o755))
            .map_err(|errno| Error::io("chmod directory empty", errno))?;
        let bins = Arc::new(Bins { work: open("work")?, trash: open("trash")? });
        Ok(Self {
            root,
            images: open("images")?,
            layers: open("layers")?,
            directories: open("directories")?,
            blobs: open("blobs/sha256")?,
            janitor: Janitor::start(Arc::clone(&bins)),
            bins,
            path,
        })
    }

    /// Moves the work of an earlier process into the trash, which is then emptied. Blocking.
    pub(super) fn clear(&self) {
        let work = self.bins.work.as_fd();
        let cleared = names(work)
            .map_err(Into::into)
            .and_then(|names| names.iter().try_for_each(|name| self.bins.take(work, name)));
        if let Err(error) = cleared {
            tracing::warn!(%error, "work of an earlier process in the image store");
        }
        self.janitor.empty();
    }

    /// Whether there is a manifest or configuration with this digest.
    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        fs::statat(&self.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// A name at the top of the store.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The files of a layer.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.path.join("layers").join(diff_id.hex()).join("fs")
    }

    /// What stands on top of an image's layers to give back attributes to directories.
    pub(crate) fn directories_path(&self, image: &Digest) -> PathBuf {
        self.path.join("directories").join(image.hex()).join("fs")
    }

    /// The root of an image without layers.
    pub(crate) fn empty_path(&self) -> PathBuf {
        self.path.join("empty")
    }

    /// Takes a directory out of one of the store's own; not being there is success. Blocking, but short: what lies below is
    /// removed in the background, unless the disk is full.
    pub(super) fn throw_away(&self, directory: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        self.bins.take(directory, name).map_err(|error| Error::io(format!("remove {name}"), error))?;
        self.janitor.empty();
        Ok(())
    }

    /// Waits until discarded work directories are gone.
    pub(crate) async fn settle(&self) {
        self.janitor.settle().await;
    }

    /// Everything that was written to the store's file system so far is on the disk when this returns. Blocking.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        failpoint("image.disk.sync")?;
        fs::syncfs(&self.root).map_err(|errno| Error::io("sync the file system of the image store", errno))
    }

    /// The directories into which complete things were moved. Blocking.
    pub(super) fn sync_names(&self) -> Result<(), Error> {
        for (name, directory) in
            [("layers", &self.layers), ("directories", &self.directories), ("blobs", &self.blobs)]
        {
            sync_directory(name, directory)?;
        }
        Ok(())
    }

    /// The directory of the images' records. Blocking.
    pub(super) fn sync_records(&self) -> Result<(), Error> {
        sync_directory("images", &self.images)
    }
}

fn sync_directory(name: &str, directory: &OwnedFd) -> Result<(), Error> {
    failpoint("image.directory.fsync")?;
    fs::fsync(directory).map_err(|errno| Error::io(format!("fsync directory {name}"), errno))
}

/// A private directory below `work`; discarded when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    home: Arc<Home>,
    name: Option<String>,
    directory: OwnedFd,
}

impl Scratch {
    /// Blocking.
    pub(crate) fn new(home: &Arc<Home>) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        failpoint("image.work.mkdir")?;
        let fault = |errno| Error::io("make a work directory", errno);
        let work = &home.bins.work;
        let name = loop {
            let name = COUNTER.fetch_add(1, Ordering::Relaxed).to_string();
            match fs::mkdirat(work, &name, Mode::RWXU) {
                // Of an earlier process, whose work could not be taken away.
                Err(Errno::EXIST) => {}
                made => break made.map(|()| name).map_err(fault)?,
            }
        };
        let directory = open_directory(work, Path::new(&name)).map_err(fault)?;
        Ok(Self { home: Arc::clone(home), name: Some(name), directory })
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// An empty directory in this one, with mode 0755 whatever the umask. Blocking.
    pub(crate) fn make(&self, name: &str) -> Result<OwnedFd, Error> {
        let fault = |errno| Error::io(format!("make work directory {name}"), errno);
        fs::mkdirat(&self.directory, name, Mode::RWXU).map_err(fault)?;
        let made = open_directory(&self.directory, Path::new(name)).map_err(fault)?;
        fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(fault)?;
        Ok(made)
    }

    /// Removes an empty directory of this one. Blocking.
    pub(crate) fn unmake(&self, name: &str) -> Result<(), Error> {
        fs::unlinkat(&self.directory, name, AtFlags::REMOVEDIR)
            .map_err(|errno| Error::io(format!("remove work directory {name}"), errno))
    }

    /// A new file in this directory. Blocking.
    pub(crate) fn create(&self, name: &str) -> Result<std::fs::File, Error> {
        failpoint("image.work.create")?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::io(format!("create work file {name}"), errno))?;
        Ok(file.into())
    }

    /// A new file with these bytes. Blocking.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(|source| Error::io(format!("write work file {name}"), source))
    }

    /// The same, and the bytes are on the disk when this returns. Blocking.
    pub(super) fn write_synced(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let fault = |source| Error::io(format!("write work file {name}"), source);
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(fault)?;
        failpoint("image.record.fsync")?;
        file.sync_data().map_err(fault)
    }

    /// Shows the whole directory under its final name. What stands there, which no record names, gives way. Blocking.
    pub(super) fn publish(&mut self, directory: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        let Some(work_name) = &self.name else {
            // Another pull has published it, and lost it again because its commit failed.
            return Err(Error::io(format!("move a work directory to {name}"), Errno::NOENT));
        };
        let fault = |errno| Error::io(format!("move a work directory to {name}"), errno);
        let work = self.home.bins.work.as_fd();
        match fs::renameat_with(work, work_name, directory, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                self.home.throw_away(directory, name)?;
                fs::renameat_with(work, work_name, directory, name, RenameFlags::NOREPLACE).map_err(fault)?;
            }
            other => other.map_err(fault)?,
        }
        self.name = None;
        Ok(())
    }

    /// Shows one file of this directory under its final name. Blocking.
    pub(super) fn publish_file(
        &self,
        file: &str,
        directory: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), Error> {
        fs::renameat(&self.directory, file, directory, name)
            .map_err(|errno| Error::io(format!("move a work file to {name}"), errno))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.home.janitor.discard(name);
        }
    }
}

/// Removes a file of one of the store's directories; not being there is success. Blocking.
pub(super) fn unlink(directory: impl AsFd, name: &str) -> Result<(), Error> {
    failpoint("image.file.remove")?;
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::io(format!("remove {name}"), errno)),
    }
}

/// The names in a directory that only we write to. Blocking.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// The digests that name something in a directory. Blocking.
pub(super) fn digests(directory: BorrowedFd<'_>) -> Result<BTreeSet<Digest>, Error> {
    let names = names(directory).map_err(|errno| Error::io("read a directory of the image store", errno))?;
    Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
}

/// Reads a file of at most `limit` bytes; a symlink or a special file is an error. Blocking.
pub(super) fn read_file(directory: BorrowedFd<'_>, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = std::fs::File::from(fs::openat2(directory, name, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Whether a failure to read says something of what is there, and not of the disk or of this process.
pub(super) fn blames_content(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidInput, NotADirectory};
    // A symlink in the way, and what a file system says of its own structure.
    let errnos = [Errno::LOOP, Errno::UCLEAN, Errno::BADMSG].map(|errno| Some(errno.raw_os_error()));
    matches!(error.kind(), FileTooLarge | InvalidInput | NotADirectory)
        || errnos.contains(&error.raw_os_error())
}

fn open_directory(parent: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    fs::openat(parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
