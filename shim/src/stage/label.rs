//! SELinux labels of file systems and volumes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_sys::path::of_descriptor;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, openat2, setxattr};
use rustix::io::{Errno, Result};

use super::launch::{Launch, linux};

const NAME: &str = "security.selinux";
/// Deeper than any volume; every level holds a descriptor.
const DEEPEST: usize = 500;

/// The label that mounts of the container have, if the node has SELinux.
pub fn of_mounts(launch: &Launch) -> Option<&str> {
    linux(launch).and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty())
}

/// File systems whose files all have the label that they are mounted with.
pub fn is_mount_option(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "devpts" | "overlay")
}

/// Labels a file, or a directory with all below it on the same mount. What has no labels, as NFS has none, stays as it
/// is. Another user of the volume may change it meanwhile: what is gone again needs no label.
///
/// # Errors
/// EROFS on a read-only file system, EINVAL for a label that the policy does not know, ELOOP if it is too deep.
pub fn relabel(top: &OwnedFd, label: &str) -> Result<()> {
    match set(top.as_fd(), label) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    }
    match open(top.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => below(&directory, label, DEEPEST),
        Err(Errno::NOTDIR) => Ok(()),
        Err(e) => Err(e),
    }
}

fn below(directory: &OwnedFd, label: &str, levels: usize) -> Result<()> {
    let levels = levels.checked_sub(1).ok_or(Errno::LOOP)?;
    let mut entries = Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = match open(directory.as_fd(), name, OFlags::PATH) {
            // Gone, or a mount of somebody's own.
            Err(Errno::NOENT | Errno::XDEV) => continue,
            other => other?,
        };
        set(found.as_fd(), label)?;
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            match open(found.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(next) => below(&next, label, levels)?,
                Err(Errno::NOTDIR | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn open(at: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    // With O_PATH and O_NOFOLLOW a symlink is opened itself.
    openat2(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// An O_PATH descriptor has no fsetxattr(2), but a name in our procfs.
fn set(fd: BorrowedFd<'_>, label: &str) -> Result<()> {
    let value = [label.as_bytes(), b"\0"].concat();
    setxattr(of_descriptor(fd), NAME, &value, XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, getxattr, openat};
    use std::{fs, path::Path};

    fn label_of(path: &Path) -> Option<String> {
        let mut buffer = [0; 64];
        let length = getxattr(path, NAME, &mut buffer[..]).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim_end_matches('\0').to_owned())
    }

    /// Without SELinux the kernel keeps the attribute as it is written, for root.
    #[test]
    fn a_tree_is_labelled_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("holdfast-label-{}", std::process::id()));
        let (volume, outside) = (dir.join("volume"), dir.join("outside"));
        fs::create_dir_all(volume.join("a/b")).expect("make directories");
        fs::write(volume.join("a/b/file"), "x").expect("write");
        fs::write(&outside, "x").expect("write");
        std::os::unix::fs::symlink(&outside, volume.join("link")).expect("link");
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let top = openat(CWD, &volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let done = relabel(&top, label);
        let found: Vec<_> =
            ["", "a", "a/b", "a/b/file"].iter().map(|path| label_of(&volume.join(path))).collect();
        let (alone, file) = (label_of(&outside), openat(CWD, &outside, OFlags::PATH, Mode::empty()));
        let single = file.and_then(|file| relabel(&file, label));
        let labelled = label_of(&outside);
        fs::remove_dir_all(&dir).expect("remove");
        if done == Err(Errno::PERM) {
            println!("SKIP: security labels are for root");
            return;
        }
        done.expect("relabel");
        assert!(found.iter().all(|found| found.as_deref() == Some(label)), "{found:?}");
        assert_eq!(alone, None, "through a symlink");
        single.expect("relabel a file");
        assert_eq!(labelled.as_deref(), Some(label));
    }
}
