//! Masked and read-only paths.
//!
//! What covers them comes from one small tmpfs that lies under the root and goes with the holder's mounts: a null
//! device of our own (nobody can change the host's by chmod) and an empty directory.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use holdfast_sys::mount::{self, Change, FileSystem, NODEV, NOEXEC, NOSUID, RDONLY};
use holdfast_sys::path::{Root, is_directory};
use rustix::fs::{FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat};
use rustix::io::Errno;

use super::devices;
use super::launch::{Launch, has_user_namespace, linux};
use crate::fault::{OrFail, Result};

/// What covers paths.
#[derive(Debug)]
pub struct Hidden {
    /// A tmpfs with `null`, `empty`, `0` and `1`, and what [`devices::prepare_outside`] makes; detached until [`attach`].
    pub scratch: Option<OwnedFd>,
}

impl Hidden {
    /// All descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.scratch.iter().map(AsRawFd::as_raw_fd)
    }
}

fn masked(launch: &Launch) -> &[String] {
    linux(launch).and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default()
}

fn read_only(launch: &Launch) -> &[String] {
    linux(launch).and_then(|linux| linux.readonly_paths().as_deref()).unwrap_or_default()
}

/// Makes the tmpfs, on the host, where a device node may be made; the umask has to be 0.
pub fn prepare(launch: &Launch) -> Result<Hidden> {
    const STAGE: &str = "make covers for masked paths";
    if masked(launch).is_empty() && !has_user_namespace(launch) {
        return Ok(Hidden { scratch: None });
    }
    let scratch = FileSystem::open("tmpfs").and_then(|fs| fs.mount(NOSUID | NOEXEC)).or_fail(STAGE)?;
    mknodat(&scratch, "null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
        .or_fail(STAGE)?;
    for name in ["empty", "0", "1"] {
        mkdirat(&scratch, name, Mode::from_raw_mode(0o555)).or_fail(STAGE)?;
    }
    devices::prepare_outside(launch, &scratch)?;
    Ok(Hidden { scratch: Some(scratch) })
}

/// Attaches the tmpfs at `place`, and `visible` mounts in it.
pub fn attach(hidden: &Hidden, visible: &[OwnedFd], place: &OwnedFd) -> Result<()> {
    const STAGE: &str = "attach covers for masked paths";
    let Some(scratch) = &hidden.scratch else { return Ok(()) };
    mount::attach(scratch, place).or_fail(STAGE)?;
    for (mount, name) in visible.iter().zip(["0", "1"]) {
        let target = openat(scratch, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_fail(STAGE)?;
        mount::attach(mount, target).or_fail("attach a visible proc or sysfs")?;
    }
    Ok(())
}

/// Covers what the spec wants masked, and makes read-only what it wants read-only. A path that is not there is fine.
pub fn apply(launch: &Launch, root: &Root, hidden: &Hidden) -> Result<()> {
    // Before the masks: they may lie in a read-only path, and a copy of that must be without them on top.
    for path in read_only(launch) {
        make_read_only(root, Path::new(path))?;
    }
    if let Some(scratch) = &hidden.scratch {
        for path in masked(launch) {
            cover(root, scratch, Path::new(path))?;
        }
    }
    Ok(())
}

fn find(root: &Root, path: &Path, stage: &str) -> Result<Option<OwnedFd>> {
    match root.open(path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).or_fail(stage),
    }
}

fn cover(root: &Root, scratch: &OwnedFd, path: &Path) -> Result<()> {
    let stage = format!("mask {}", path.display());
    let Some(target) = find(root, path, &stage)? else { return Ok(()) };
    let directory = is_directory(&target, path).or_fail(&stage)?;
    let (name, set) = if directory { ("empty", RDONLY | NODEV) } else { ("null", 0) };
    let cover = mount::copy_tree(scratch.as_fd(), Path::new(name), false).or_fail(&stage)?;
    let change = Change { set: set | NOSUID | NOEXEC, ..Change::default() };
    mount::set_attributes(&cover, false, change).or_fail(&stage)?;
    mount::attach(cover, target).or_fail(&stage)
}

fn make_read_only(root: &Root, path: &Path) -> Result<()> {
    let stage = format!("make {} read-only", path.display());
    let Some(target) = find(root, path, &stage)? else { return Ok(()) };
    let copy = mount::copy_tree(target.as_fd(), Path::new(""), true).or_fail(&stage)?;
    let change = Change { set: RDONLY, ..Change::default() };
    mount::set_attributes(&copy, true, change).or_fail(&stage)?;
    mount::attach(copy, target).or_fail(&stage)
}
