//! Network namespaces pinned for plugins: bind mounts in the host's mount namespace, named in the pod's record before
//! they are made.
//!
//! Istio's and Multus' plugins, and whoever looks into /run/netns, expect them there. Before the first pin the directory
//! becomes a shared mount point, as ip-netns(8) makes it before its first name: it would else do so later, above our pins,
//! and those below could not be taken away any more. Other mount namespaces see the pins come and go.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_model::PodId;
use holdfast_sys::failpoint;
use rustix::{
    fs::{FlockOperation, flock, statfs},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount},
};

use crate::Error;

/// Longest wait for somebody else who makes the directory a mount point.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
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
        make_mount_point(dir).map_err(Error::io(format!("make {} a shared mount point", dir.display())))?;
    }
    failpoint::at("network.pin.create").map_err(Error::io(operation()))?;
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(Error::io(operation()))?;
    let source = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
    let mount = || failpoint::at("network.pin.mount").and_then(|()| Ok(mount_bind(source, path)?));
    mount().map_err(|error| {
        let _ = fs::remove_file(path);
        Error::io(operation())(error)
    })
}

/// A mount point of its own, shared with what is below. Under the lock that iproute2 takes for it, or two would lie one
/// above the other.
fn make_mount_point(dir: &Path) -> io::Result<()> {
    let lock = File::open(dir)?;
    let end = Instant::now() + LOCK_LIMIT;
    while let Err(errno) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::WOULDBLOCK || Instant::now() >= end {
            return Err(errno.into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(dir, shared) {
        // No mount point yet.
        Err(Errno::INVAL) => {
            mount_bind_recursive(dir, dir)?;
            Ok(mount_change(dir, shared)?)
        }
        result => Ok(result?),
    }
}

/// Takes a pin away; success if there is none.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    let operation = || format!("unpin the network namespace at {}", path.display());
    failpoint::at("network.pin.unmount").map_err(Error::io(operation()))?;
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: a file without a mount, as a crash or another boot leaves it.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(Error::io(operation())(errno.into())),
    }
    failpoint::at("network.pin.remove").map_err(Error::io(operation()))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(operation())(error)),
        _ => Ok(()),
    }
}

/// Whether a namespace is pinned there.
pub(super) fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type == NSFS)
}
