//! Mounts by descriptor.

use core::ffi::CStr;

use crate::Fd;
use crate::arch::{nr, syscall};
use crate::call::{AT_FDCWD, Result, check, done};

/// Mount attribute (mount_setattr(2)).
pub const RDONLY: u64 = 0x1;
/// Mount attribute.
pub const NOSUID: u64 = 0x2;
/// Mount attribute.
pub const NODEV: u64 = 0x4;
/// Mount attribute.
pub const NOEXEC: u64 = 0x8;

/// Makes every mount of the namespace private: nothing comes in, and taking the tree away takes nothing from others.
pub fn make_all_private() -> Result<()> {
    const MS_REC: usize = 0x4000;
    const MS_PRIVATE: usize = 1 << 18;
    let args = [0, c"/".as_ptr() as usize, 0, MS_REC | MS_PRIVATE, 0, 0];
    // SAFETY: source, type and data are not looked at for a change of propagation.
    unsafe { done(nr::MOUNT, args) }
}

/// A tmpfs that is attached nowhere yet. Options are pairs of names and values.
pub fn tmpfs(options: &[(&CStr, &CStr)], attributes: u64) -> Result<Fd> {
    const FSOPEN_CLOEXEC: usize = 1;
    const FSMOUNT_CLOEXEC: usize = 1;
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    let args = [c"tmpfs".as_ptr() as usize, FSOPEN_CLOEXEC, 0, 0, 0, 0];
    // SAFETY: the name ends in a zero byte.
    let context = Fd::from_call(check(unsafe { syscall(nr::FSOPEN, args) })?);
    for (name, value) in options {
        let (name, value) = (name.as_ptr() as usize, value.as_ptr() as usize);
        // SAFETY: both end in a zero byte.
        unsafe { done(nr::FSCONFIG, [context.arg(), FSCONFIG_SET_STRING, name, value, 0, 0]) }?;
    }
    // SAFETY: no memory involved.
    unsafe { done(nr::FSCONFIG, [context.arg(), FSCONFIG_CMD_CREATE, 0, 0, 0, 0]) }?;
    let args = [context.arg(), FSMOUNT_CLOEXEC, attributes as usize, 0, 0, 0];
    // SAFETY: no memory involved.
    check(unsafe { syscall(nr::FSMOUNT, args) }).map(Fd::from_call)
}

/// Attaches a mount at a path.
pub fn attach(mount: &Fd, path: &CStr) -> Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
    let (empty, path) = (c"".as_ptr() as usize, path.as_ptr() as usize);
    let args = [mount.arg(), empty, AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH, 0];
    // SAFETY: both paths end in a zero byte.
    unsafe { done(nr::MOVE_MOUNT, args) }
}

/// Adds attributes to a mount.
pub fn add_attributes(mount: &Fd, attributes: u64) -> Result<()> {
    const AT_EMPTY_PATH: usize = 0x1000;
    // attr_set, attr_clr, propagation, userns_fd
    let change: [u64; 4] = [attributes, 0, 0, 0];
    let (empty, change_at) = (c"".as_ptr() as usize, change.as_ptr() as usize);
    let args = [mount.arg(), empty, AT_EMPTY_PATH, change_at, size_of_val(&change), 0];
    // SAFETY: struct mount_attr of its first version, and an empty path.
    unsafe { done(nr::MOUNT_SETATTR, args) }
}

/// Makes an attached mount the root of the process, and takes away what was there.
pub fn change_root(mount: &Fd) -> Result<()> {
    const MNT_DETACH: usize = 2;
    let here = c".".as_ptr() as usize;
    // SAFETY: no memory involved.
    unsafe { done(nr::FCHDIR, [mount.arg(), 0, 0, 0, 0, 0]) }?;
    // With both names the same the old root lies on top of the new one (pivot_root(2)), and `.` is the old one.
    // SAFETY: the paths end in a zero byte.
    unsafe { done(nr::PIVOT_ROOT, [here, here, 0, 0, 0, 0]) }?;
    // SAFETY: likewise.
    unsafe { done(nr::UMOUNT2, [here, MNT_DETACH, 0, 0, 0, 0]) }?;
    // SAFETY: likewise.
    unsafe { done(nr::CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]) }
}

/// Makes a directory.
pub fn make_dir(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the path ends in a zero byte.
    unsafe { done(nr::MKDIRAT, [AT_FDCWD, path.as_ptr() as usize, mode as usize, 0, 0, 0]) }
}
