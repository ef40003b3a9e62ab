//! The mount API by descriptors (Linux 5.2): a mount is made or copied detached, gets its attributes while nobody can
//! see it, and is then attached to a place that is a descriptor as well.

use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use crate::error::{CallError, Result};
use crate::failpoint;

/// Read-only.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// No set-user-id programs.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// No device nodes.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// No programs.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
/// The bits that say how access times are kept; setting one means clearing all of them.
pub const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
/// No access times.
pub const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
/// Every access time.
pub const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
/// No access times of directories.
pub const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
/// No symlinks are followed (Linux 5.14).
pub const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;

/// How mounts on one side show on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the original to the copy.
    Slave,
    /// Both ways.
    Shared,
    /// Not at all, and it cannot be copied.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// Propagation to have.
    pub propagation: Option<Propagation>,
    /// User namespace whose maps shift the ids of its files (Linux 5.12; the mount must be detached).
    pub id_map: Option<BorrowedFd<'a>>,
}

impl Change<'_> {
    /// It changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation.is_none() && self.id_map.is_none()
    }
}

/// mount_setattr(2) on a mount, or on all mounts of its tree.
///
/// # Errors
/// EINVAL for a mount that cannot be id-mapped (attached already, or its file system does not know how), EPERM for
/// an attribute that a user namespace has locked.
pub fn set_attributes(mount: impl AsFd, recursive: bool, change: Change<'_>) -> Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    failpoint::call("sys.mount_setattr")?;
    let fd = mount.as_fd().as_raw_fd();
    let id_map = if change.id_map.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    let atime = if change.set & ATIME_MASK != 0 { ATIME_MASK } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: change.set | id_map,
        attr_clr: change.clear | atime,
        propagation: change.propagation.map_or(0, Propagation::bits),
        userns_fd: change.id_map.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attributes` is a struct mount_attr of the size that is passed; both outlive
    // the call, which keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let errno = std::io::Error::last_os_error();
    let (set, clear) = (attributes.attr_set, attributes.attr_clr);
    Err(CallError::new(format!("mount_setattr(fd {fd}, set {set:#x}, clear {clear:#x})"), errno))
}

/// Copies the mount that holds `path`, with what is mounted below if `recursive`, as a detached tree. Symlinks are
/// followed; an empty path means `at` itself.
pub fn copy_tree(at: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    failpoint::call("sys.open_tree")?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(at, path, flags)
        .map_err(|e| CallError::new(format!("open_tree(\"{}\", OPEN_TREE_CLONE)", path.display()), e))
}

/// As [`copy_tree`], for a path of our own mount namespace.
pub fn copy_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    copy_tree(CWD, path, recursive)
}

/// Attaches a detached mount on top of `target`.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    failpoint::call("sys.move_mount")?;
    let (mount, target) = (mount.as_fd(), target.as_fd());
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(|e| {
        CallError::new(format!("move_mount(fd {}, fd {})", mount.as_raw_fd(), target.as_raw_fd()), e)
    })
}

/// Lets the private mount `new` share with the peers of `from` (Linux 5.15). Both are roots of mounts of one file system,
/// `from` perhaps in another mount namespace.
///
/// # Errors
/// EINVAL if `new` is not private, if `from` has no peers, or from an older kernel.
pub fn join_peers(from: impl AsFd, new: impl AsFd) -> Result<()> {
    let (from, new) = (from.as_fd(), new.as_fd());
    let flags = MoveMountFlags::MOVE_MOUNT_SET_GROUP
        | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(from, c"", new, c"", flags).map_err(|e| {
        let call =
            format!("move_mount(fd {}, fd {}, MOVE_MOUNT_SET_GROUP)", from.as_raw_fd(), new.as_raw_fd());
        CallError::new(call, e)
    })
}

/// The number of the mount that a descriptor lies on, as mountinfo has it (statx(2), Linux 5.8).
pub fn id_of(fd: impl AsFd) -> Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(fd, c"", flags, StatxFlags::MNT_ID)
        .map(|stat| stat.stx_mnt_id)
        .map_err(|e| CallError::new("statx(STATX_MNT_ID)", e))
}

/// Propagation type of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peers {
    /// It has peers that show what is mounted there, and that it shows theirs.
    pub shared: bool,
    /// It shows what is mounted at a master.
    pub slave: bool,
}

/// Propagation type of the mount that a descriptor lies on; it has to be one of our mount namespace.
pub fn peers_of(fd: impl AsFd) -> Result<Peers> {
    const TABLE: &str = "/proc/self/mountinfo";
    match propagation_by_statmount(fd.as_fd()) {
        Err(e) if [Errno::NOSYS, Errno::INVAL, Errno::PERM].into_iter().any(|errno| e.is(errno)) => {}
        other => return other,
    }
    // Before Linux 6.8, or where a seccomp filter of old age does not know the call: the whole table is read.
    let id = id_of(fd)?;
    let table =
        std::fs::read_to_string(TABLE).map_err(|e| CallError::new(format!("read(\"{TABLE}\")"), e))?;
    Ok(peers_in(&table, id))
}

/// statmount(2), STATMOUNT_MNT_BASIC.
fn propagation_by_statmount(fd: BorrowedFd<'_>) -> Result<Peers> {
    const SYS_STATMOUNT: libc::c_long = 457;
    /// STATX_MNT_ID_UNIQUE: a number that no mount had before.
    const UNIQUE: u32 = 0x4000;
    /// MNT_ID_REQ_SIZE_VER0.
    const REQUEST_SIZE: u64 = 24;
    const BASIC: u64 = 2;
    /// Of `struct statmount` in words of eight bytes, and where `mask` and `mnt_propagation` are in it.
    const WORDS: usize = 64;
    const MASK: usize = 1;
    const PROPAGATION: usize = 9;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, c"", flags, StatxFlags::from_bits_retain(UNIQUE))
        .map_err(|e| CallError::new("statx(STATX_MNT_ID_UNIQUE)", e))?;
    let failed = |e: std::io::Error| CallError::new("statmount(STATMOUNT_MNT_BASIC)", e);
    if stat.stx_mask & UNIQUE == 0 {
        return Err(failed(Errno::NOSYS.into()));
    }
    let request = [REQUEST_SIZE, stat.stx_mnt_id, BASIC];
    let mut found = [0_u64; WORDS];
    // SAFETY: `request` is a struct mnt_id_req of the size that its first field names, `found` has room for the bytes that
    // are passed as its size; both outlive the call.
    let result =
        unsafe { libc::syscall(SYS_STATMOUNT, request.as_ptr(), found.as_mut_ptr(), size_of_val(&found), 0) };
    if result != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    if found[MASK] & BASIC == 0 {
        return Err(failed(Errno::NOSYS.into()));
    }
    let has = |bits: u64| found[PROPAGATION] & bits != 0;
    Ok(Peers { shared: has(libc::MS_SHARED), slave: has(libc::MS_SLAVE) })
}

/// The same in /proc/PID/mountinfo (proc_pid_mountinfo(5)): the fields after the sixth are optional, and a dash ends them.
fn peers_in(table: &str, id: u64) -> Peers {
    let id = id.to_string();
    let line = table.lines().find_map(|line| line.strip_prefix(&id)?.strip_prefix(' ')).unwrap_or_default();
    let has = |tag| line.split(' ').skip(5).take_while(|word| *word != "-").any(|word| word.starts_with(tag));
    Peers { shared: has("shared:"), slave: has("master:") }
}

/// Makes every mount of our mount namespace private.
pub fn make_all_private() -> Result<()> {
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| CallError::new("mount(\"/\", MS_PRIVATE | MS_REC)", e))
}

/// Makes `root` the root of our mount namespace, and lets go of the old one with all that is mounted there. The
/// working directory is the new root afterwards.
pub fn pivot_to(root: impl AsFd) -> Result<()> {
    failpoint::call("sys.pivot_root")?;
    rustix::process::fchdir(root.as_fd()).map_err(|e| CallError::new("fchdir(new root)", e))?;
    // With the same directory for both, the old root ends up on top of the new one: no place to put it is needed.
    rustix::process::pivot_root(c".", c".").map_err(|e| CallError::new("pivot_root(\".\", \".\")", e))?;
    unmount(c".", UnmountFlags::DETACH).map_err(|e| CallError::new("umount2(\".\", MNT_DETACH)", e))?;
    rustix::process::chdir(c"/").map_err(|e| CallError::new("chdir(\"/\")", e))
}

/// A file system being configured.
#[derive(Debug)]
pub struct FileSystem {
    context: OwnedFd,
    kind: String,
}

impl FileSystem {
    /// Begins a new instance of a file system of this kind.
    pub fn open(kind: &str) -> Result<Self> {
        failpoint::call("sys.fsopen")?;
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| CallError::new(format!("fsopen(\"{kind}\")"), e))?;
        Ok(Self { context, kind: kind.to_owned() })
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.context, key).map_err(|e| self.failed(key, "", e))
    }

    /// Sets an option, at most 255 bytes long.
    pub fn string(&self, key: &str, value: &str) -> Result<()> {
        fsconfig_set_string(&self.context, key, value).map_err(|e| self.failed(key, value, e))
    }

    /// Sets an option to a descriptor.
    pub fn descriptor(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        fsconfig_set_fd(&self.context, key, value)
            .map_err(|e| self.failed(key, &format!("fd {}", value.as_raw_fd()), e))
    }

    /// Makes the instance and a detached mount of it with these attributes.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        failpoint::call("sys.fsmount")?;
        fsconfig_create(&self.context).map_err(|e| self.failed("create", "", e))?;
        let flags = MountAttrFlags::from_bits_retain(attributes as u32);
        fsmount(&self.context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|e| self.failed("mount", "", e))
    }

    /// The kernel keeps what a file system had to say as lines that are read from the context.
    fn failed(&self, key: &str, value: &str, errno: Errno) -> CallError {
        let mut said = String::new();
        let mut line = [0; 256];
        while let Ok(len) = rustix::io::read(&self.context, &mut line) {
            let _ = write!(said, " ({})", String::from_utf8_lossy(&line[..len]).trim_end());
            if len == 0 || said.len() > 1024 {
                break;
            }
        }
        CallError::new(format!("fsconfig({}, {key} {value}){said}", self.kind), errno)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, openat};

    #[test]
    fn a_tmpfs_is_filled_before_anybody_sees_it() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: needs root");
            return;
        }
        let fs = FileSystem::open("tmpfs").unwrap();
        fs.string("mode", "755").unwrap();
        let mount = fs.mount(NODEV).unwrap();
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        openat(&mount, "file", flags, Mode::from_raw_mode(0o600)).unwrap();
        set_attributes(&mount, true, Change { set: RDONLY, ..Change::default() }).unwrap();
        let refused = openat(&mount, "other", flags, Mode::from_raw_mode(0o600)).unwrap_err();
        assert_eq!(refused, Errno::ROFS);
    }

    #[test]
    fn tags_are_those_of_the_mount_and_of_no_other() {
        let table = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            271 27 0:5 / /shared rw shared:7 - tmpfs shared:1 rw\n\
            2 27 0:6 / /slave rw,relatime master:7 - tmpfs t rw\n\
            3 27 0:6 / /both rw,relatime shared:8 master:7 propagate_from:2 - tmpfs t rw\n\
            4 27 0:6 / /proc rw - proc shared:9 rw\n";
        let peers = |shared, slave| Peers { shared, slave };
        for (id, expected) in [
            (27, peers(false, false)),
            (271, peers(true, false)),
            (2, peers(false, true)),
            (3, peers(true, true)),
            (4, peers(false, false)),
            (1, peers(false, false)),
        ] {
            assert_eq!(peers_in(table, id), expected, "{id}");
        }
    }

    #[test]
    fn both_ways_tell_the_same_of_every_mount() {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut seen = 0;
        for path in table.lines().filter_map(|line| line.split(' ').nth(4)) {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = openat(CWD, path, flags, Mode::empty()) else { continue };
            match propagation_by_statmount(fd.as_fd()) {
                Ok(found) => assert_eq!(found, peers_in(&table, id_of(&fd).unwrap()), "{path}"),
                Err(e) if e.is(Errno::NOSYS) => return println!("SKIP: needs Linux 6.8"),
                Err(e) => panic!("{path}: {e}"),
            }
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[test]
    fn the_file_systems_own_words_are_in_the_error() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: needs root");
            return;
        }
        let error = FileSystem::open("tmpfs").unwrap().string("nonsense", "1").unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        assert!(FileSystem::open("no-such-fs").unwrap_err().is(Errno::NODEV));
    }
}
