//! A path below a volume, opened so that no symbolic link leads out of the volume.
//!
//! A container can change what is in a volume while another container is made from it. So the path is opened here,
//! once and below the volume, and CreateContainer is given the name of the descriptor: what it mounts is what was
//! opened, whatever happens to the path meanwhile.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2},
    io::Errno,
};

/// A sub path that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// A symbolic link, or something moved meanwhile.
    #[error("{path:?} leads out of its volume")]
    Escape {
        /// The sub path.
        path: PathBuf,
    },
    /// It cannot be opened or made.
    #[error("open {path:?} in its volume")]
    Open {
        /// As far as it went.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

/// Opens a path below a volume. Directories that are not there are made with the volume's own mode, as a kubelet does:
/// who may write to the volume may write to them. Blocking.
pub fn open(volume: &Path, sub_path: &Path) -> Result<OwnedFd, SubPathError> {
    let root = openat2(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty());
    let root = root.map_err(|errno| failed(errno, volume))?;
    let mode = fstat(&root).map_err(|errno| failed(errno, volume))?.st_mode & 0o7777;
    let mut walked = PathBuf::new();
    let mut parent = None;
    for part in sub_path.components() {
        let Component::Normal(name) = part else { continue };
        walked.push(name);
        // From the volume each time: a link on the way may lead to elsewhere in it.
        let opened = match below(&root, &walked) {
            Err(Errno::NOENT) => {
                let dir = parent.as_ref().unwrap_or(&root);
                make(dir, Path::new(name), Mode::from_raw_mode(mode))
                    .map_err(|errno| failed(errno, &walked))?;
                below(&root, &walked)
            }
            opened => opened,
        };
        parent = Some(opened.map_err(|errno| failed(errno, &walked))?);
    }
    Ok(parent.unwrap_or(root))
}

fn below(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed on the way.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

fn make(dir: &OwnedFd, name: &Path, mode: Mode) -> Result<(), Errno> {
    match mkdirat(dir, name, mode) {
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    // The umask has narrowed the mode. Whatever stands there by now, it is no link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fchmod(openat(dir, name, flags, Mode::empty())?, mode)
}

fn failed(errno: Errno, path: &Path) -> SubPathError {
    match errno {
        Errno::XDEV | Errno::LOOP => SubPathError::Escape { path: path.to_owned() },
        errno => SubPathError::Open { path: path.to_owned(), source: errno.into() },
    }
}

/// What the descriptor is called by other processes while it is open.
pub fn name(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn what_is_in_the_volume_is_opened_and_made() {
        let base = tempfile::tempdir().unwrap();
        let volume = base.path().join("volume");
        fs::create_dir_all(volume.join("there")).unwrap();
        fs::write(volume.join("there/file"), "content").unwrap();
        symlink("there", volume.join("inside")).unwrap();
        let file = open(&volume, Path::new("inside/./file")).unwrap();
        assert_eq!(fs::read_to_string(name(&file)).unwrap(), "content");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        open(&volume, Path::new("inside/new/deep")).unwrap();
        let made = fs::metadata(volume.join("there/new/deep")).unwrap();
        assert_eq!((made.is_dir(), made.mode() & 0o7777), (true, 0o2777));
        fs::rename(volume.join("there"), volume.join("away")).unwrap();
        assert_eq!(fs::read_to_string(name(&file)).unwrap(), "content", "what was opened is what is mounted");
    }

    #[test]
    fn what_leads_out_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let volume = base.path().join("volume");
        fs::create_dir_all(&volume).unwrap();
        fs::create_dir_all(base.path().join("secret")).unwrap();
        for (link, target) in [("up", "../secret"), ("root", "/"), ("self", "/proc/self"), ("loop", "loop")] {
            symlink(target, volume.join(link)).unwrap();
            for path in [link.to_owned(), format!("{link}/new")] {
                let error = open(&volume, Path::new(&path)).unwrap_err();
                assert!(matches!(error, SubPathError::Escape { .. }), "{path}: {error:?}");
            }
        }
        symlink("../gone", volume.join("dangling")).unwrap();
        assert!(open(&volume, Path::new("dangling/x")).is_err());
        assert!(!base.path().join("gone").exists() && !base.path().join("secret/new").exists());
        fs::write(volume.join("file"), "").unwrap();
        assert!(matches!(open(&volume, Path::new("file/x")), Err(SubPathError::Open { .. })));
    }
}
