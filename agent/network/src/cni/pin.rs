//! Network namespaces pinned for plugins: bind mounts in the host's mount namespace, named in the pod's record before
//! they are made.
//!
//! Istio's and Multus' plugins, and whoever looks into /run/netns, expect them there. Where that directory is on a
//! shared mount (systemd makes `/` one) other mount namespaces see them come and go; no mount is made for that.

use std::{
    fs::{self, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use holdfast_model::PodId;
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
};

use crate::Error;

/// NSFS_MAGIC of `linux/magic.h`.
const NSFS: i64 = 0x6e73_6673;

/// Where a pod's namespace is pinned.
pub(super) fn path(dir: &Path, pod: &PodId) -> PathBuf {
    dir.join(format!("holdfast-{pod}"))
}

/// Pins a namespace.
pub(super) fn pin(path: &Path, netns: impl AsFd) -> Result<(), Error> {
    let operation = || format!("pin the network namespace at {}", path.display());
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(Error::io(operation()))?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(Error::io(operation()))?;
    let source = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
    mount_bind(source, path).map_err(|errno| {
        let _ = fs::remove_file(path);
        Error::io(operation())(errno.into())
    })
}

/// Takes a pin away; success if there is none.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    let operation = || format!("unpin the network namespace at {}", path.display());
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: a file without a mount, as a crash or another boot leaves it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(Error::io(operation())(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(operation())(error)),
        _ => Ok(()),
    }
}

/// Whether a namespace is pinned there.
pub(super) fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type == NSFS)
}
