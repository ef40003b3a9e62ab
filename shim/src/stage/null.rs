//! A null device that is nobody else's.
//!
//! Whoever has a descriptor of a device node also has a name of it, `/proc/self/fd/N`, through which root may change the
//! node's mode and owner. A container that was given the host's /dev/null could so take it from every user of the host.

use std::os::fd::{AsFd, OwnedFd};

use holdfast_sys::mount::{FileSystem, NOEXEC, NOSUID};
use holdfast_sys::path::of_descriptor;
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, openat};

use super::devices::Devices;
use crate::fault::{OrFail, Result};

const STAGE: &str = "open a null device for stdio";

/// The container's own /dev/null, or one on a file system of its own where its /dev is not ours.
pub fn of(devices: Option<&Devices>) -> Result<OwnedFd> {
    devices.map_or_else(own, |devices| open_in(&devices.mount))
}

/// One on a file system of its own, which goes with its last descriptor.
pub fn own() -> Result<OwnedFd> {
    let place = FileSystem::open("tmpfs").and_then(|fs| fs.mount(NOSUID | NOEXEC)).or_fail(STAGE)?;
    let (node, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
    mknodat(&place, "null", node, mode, makedev(1, 3)).or_fail(STAGE)?;
    // Whatever the umask was.
    let null = open_in(&place)?;
    rustix::fs::fchmod(&null, mode).or_fail(STAGE)?;
    Ok(null)
}

/// The same device with an open file of its own, whose flags are not those of others.
pub fn again(null: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    // The container may have changed how its /dev is mounted, but not what is open.
    openat(CWD, of_descriptor(null), flags, Mode::empty()).or_else(|_| null.try_clone()).or_fail(STAGE)
}

/// Makes it our stdin, stdout and stderr.
pub fn take(null: &OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)
}

fn open_in(dev: impl AsFd) -> Result<OwnedFd> {
    openat(dev, "null", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).or_fail(STAGE)
}
