//! Owner, mode, times and attributes of what is unpacked, and what it takes on disk.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::archive::Entry;
use super::fault::{Fault, show};

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    /// Bytes, in blocks of 4 KiB.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Footprint {
    pub(super) fn add(&mut self, size: u64) {
        self.bytes += size.next_multiple_of(4096);
        self.inodes += 1;
    }
}

pub(super) fn set_opaque(directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), Fault> {
    fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(|errno| Fault::call("set trusted.overlay.opaque for", path, errno))
}

pub(super) fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner first: chown takes set-id bits and file capabilities away.
pub(super) fn set_metadata(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
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
