//! The directories of the store, and the private ones in which things are made before they are shown.
//!
//! ```text
//! store.redb           images, references, layers, leases
//! layers/<hex>/        by diff_id: `fs` holds the layer's files, `layer.json` what was learnt while unpacking it
//! directories/<hex>/   by image: see the module of this name
//! blobs/sha256/<hex>   manifests and configurations
//! empty/               the root of an image without layers
//! work/<n>/            what is in progress
//! trash/<n>            what is on its way out
//! ```
//!
//! `work` and `trash` never survive a start. A directory under another name than `work` and `trash` is complete.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::janitor::{Bins, Janitor};
use crate::Error;
use crate::digest::Digest;
use crate::unpack::move_into;

const DIRECTORIES: [&str; 6] = ["layers", "directories", "blobs/sha256", "empty", "work", "trash"];

/// The store's directories, open.
#[derive(Debug)]
pub(crate) struct Home {
    /// Absolute.
    path: PathBuf,
    root: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) directories: OwnedFd,
    pub(super) blobs: OwnedFd,
    bins: Arc<Bins>,
    janitor: Janitor,
}

impl Home {
    /// Makes what is missing. Blocking, on a tokio runtime.
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
        for name in DIRECTORIES {
            make(&path.join(name))?;
        }
        let open = |name: &str| {
            open_directory(CWD, &path.join(name))
                .map_err(|errno| Error::io(format!("open {}", path.join(name).display()), errno))
        };
        fs::chmod(path.join("empty"), Mode::from_raw_mode(0o755))
            .map_err(|errno| Error::io("chmod directory empty", errno))?;
        let bins = Arc::new(Bins { work: open("work")?, trash: open("trash")? });
        Ok(Self {
            root: open(".")?,
            layers: open("layers")?,
            directories: open("directories")?,
            blobs: open("blobs/sha256")?,
            janitor: Janitor::start(Arc::clone(&bins)),
            bins,
            path,
        })
    }

    /// Moves the work of an earlier process into the trash, which is then emptied. Blocking.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let work = self.bins.work.as_fd();
        for name in names(work).map_err(|errno| Error::io("read directory work", errno))? {
            self.throw_away(work, &name)?;
        }
        self.janitor.empty();
        Ok(())
    }

    /// Where the records are.
    pub(super) fn records_path(&self) -> PathBuf {
        self.path.join("store.redb")
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

    /// Moves a name out of one of the store's directories; not being there is success. Blocking, but short: what lies
    /// below is removed in the background.
    pub(super) fn throw_away(&self, directory: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        match move_into(directory, name.as_bytes(), self.bins.trash.as_fd()) {
            Ok(()) => {
                self.janitor.empty();
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io(format!("move {name} into the trash"), errno)),
        }
    }

    /// Waits until discarded work directories are gone.
    pub(crate) async fn settle(&self) {
        self.janitor.settle().await;
    }

    /// Everything that was written to the store's file system so far is on the disk when this returns. Blocking.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        fs::syncfs(&self.root).map_err(|errno| Error::io("sync the file system of the image store", errno))
    }

    /// The directories into which complete things were moved. Blocking.
    pub(super) fn sync_names(&self) -> Result<(), Error> {
        for (name, directory) in
            [("layers", &self.layers), ("directories", &self.directories), ("blobs", &self.blobs)]
        {
            fs::fsync(directory).map_err(|errno| Error::io(format!("fsync directory {name}"), errno))?;
        }
        Ok(())
    }
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
        let name = COUNTER.fetch_add(1, Ordering::Relaxed).to_string();
        let fault = |errno| Error::io("make a work directory", errno);
        let work = &home.bins.work;
        fs::mkdirat(work, &name, Mode::RWXU).map_err(fault)?;
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
        fs::unlinkat(&self.directory, name, fs::AtFlags::REMOVEDIR)
            .map_err(|errno| Error::io(format!("remove work directory {name}"), errno))
    }

    /// A new file in this directory. Blocking.
    pub(crate) fn create(&self, name: &str) -> Result<std::fs::File, Error> {
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

fn open_directory(parent: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    fs::openat(parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
