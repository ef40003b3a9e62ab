//! A pod's volumes on this machine: emptyDirs are made, host paths are looked at, and a container's mounts of both.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use holdfast_model::{IdMapping, Image, ImageSpec, Mount};

use super::{
    images::Images,
    place::{Place, PlaceError, make_dir},
    sub_path::{self, SubPathError},
};
use crate::manifest::{Container, HostPathKind, Pod, RecursiveReadOnly, Volume, VolumeMount, VolumeSource};

/// A volume that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Our own directory.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Nothing is there.
    #[error("{path}.hostPath.path: {host:?} is not there: make it, or write type: {advice}")]
    Missing {
        /// The volume.
        path: String,
        /// The host path.
        host: PathBuf,
        /// A type that would make it.
        advice: &'static str,
    },
    /// Something else is there.
    #[error("{path}.hostPath.type: {host:?} is not {wanted}")]
    Other {
        /// The volume.
        path: String,
        /// The host path.
        host: PathBuf,
        /// What it has to be.
        wanted: &'static str,
    },
    /// It cannot be looked at or made.
    #[error("{path}.hostPath: {operation} {host:?}")]
    Host {
        /// The volume.
        path: String,
        /// What was tried.
        operation: &'static str,
        /// The host path.
        host: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A path below a volume.
    #[error("{path}.subPath")]
    SubPath {
        /// The mount.
        path: String,
        /// What is wrong.
        source: SubPathError,
    },
}

/// Makes the emptyDirs and sees that host paths are what the manifest says. Blocking.
pub fn prepare(pod: &Pod, place: &Place) -> Result<(), VolumeError> {
    for volume in &pod.volumes {
        match &volume.source {
            VolumeSource::EmptyDir { .. } => empty_dir(&place.volume(&volume.name), pod.security.fs_group)?,
            VolumeSource::HostPath { path, kind } => host_path(&volume.path, Path::new(path), *kind)?,
            VolumeSource::Image { .. } => {}
        }
    }
    Ok(())
}

/// A directory for everybody; with an fsGroup it and what is made in it belong to that group, as with a kubelet.
fn empty_dir(dir: &Path, fs_group: Option<i64>) -> Result<(), PlaceError> {
    make_dir(dir)?;
    if let Some(group) = fs_group {
        chown(dir, None, Some(group as u32)).map_err(PlaceError::io("set the group of", dir))?;
    }
    let mode = if fs_group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(PlaceError::io("set the mode of", dir))
}

fn host_path(path: &str, host: &Path, kind: HostPathKind) -> Result<(), VolumeError> {
    let failed = |operation| {
        let (path, host) = (path.to_owned(), host.to_owned());
        move |source| VolumeError::Host { path, operation, host, source }
    };
    let found = match fs::metadata(host) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return make(host, kind).map_err(failed("make"))?.ok_or_else(|| {
                let advice = if kind == HostPathKind::File { "FileOrCreate" } else { "DirectoryOrCreate" };
                VolumeError::Missing { path: path.to_owned(), host: host.to_owned(), advice }
            });
        }
        Err(error) => return Err(failed("look at")(error)),
    };
    let (good, wanted) = match kind {
        HostPathKind::Any => (true, ""),
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => (found.is_dir(), "a directory"),
        HostPathKind::FileOrCreate | HostPathKind::File => (found.is_file(), "a file"),
        HostPathKind::Socket => (found.is_socket(), "a socket"),
        HostPathKind::CharDevice => (found.is_char_device(), "a character device"),
        HostPathKind::BlockDevice => (found.is_block_device(), "a block device"),
    };
    if good {
        return Ok(());
    }
    Err(VolumeError::Other { path: path.to_owned(), host: host.to_owned(), wanted })
}

/// What a type asks to be made. `None`: it asks for nothing.
fn make(host: &Path, kind: HostPathKind) -> io::Result<Option<()>> {
    match kind {
        HostPathKind::DirectoryOrCreate => fs::create_dir_all(host).map(Some),
        // As with a kubelet, the directory has to be there.
        HostPathKind::FileOrCreate => {
            let mut options = fs::File::options();
            options.write(true).create(true).truncate(false).mode(0o644).open(host).map(|_| Some(()))
        }
        _ => Ok(None),
    }
}

/// A container's mounts, and descriptors that have to stay open until the container is made: the sources of sub
/// paths are named by them.
#[derive(Debug, Default)]
pub struct Mounts {
    /// For CreateContainer.
    pub list: Vec<Mount>,
    held: Vec<OwnedFd>,
}

/// What a container sees of the pod's volumes, of its own last words and of the pod's /etc/hosts. Blocking.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    place: &Place,
    attempt: u32,
    ids: &[IdMapping],
    images: &Images,
) -> Result<Mounts, VolumeError> {
    let mut mounts = Mounts::default();
    if !is_covered(&container.message_path, container) {
        let message = place.message(&container.name, attempt);
        make_message(&message)?;
        mounts.list.push(own(&message, &container.message_path, false));
    }
    if !pod.host_aliases.is_empty() && !is_covered("/etc/hosts", container) {
        mounts.list.push(own(&place.hosts(), "/etc/hosts", container.security.read_only_root));
    }
    for mount in &container.mounts {
        let Some(volume) = pod.volumes.iter().find(|volume| volume.name == mount.volume) else { continue };
        let common = Mount {
            container_path: mount.target.clone(),
            readonly: mount.read_only,
            recursive_read_only: recursive_read_only(mount.recursive_read_only),
            propagation: mount.propagation,
            ..Mount::default()
        };
        mounts.list.push(match &volume.source {
            VolumeSource::EmptyDir { .. } => {
                Mount { host_path: source(&place.volume(&volume.name), mount, &mut mounts.held)?, ..common }
            }
            VolumeSource::HostPath { path, .. } => {
                Mount { host_path: source(Path::new(path), mount, &mut mounts.held)?, ..common }
            }
            VolumeSource::Image { reference, .. } => {
                of_image(reference, &images.named(reference), mount, common)
            }
        });
    }
    for mount in &mut mounts.list {
        mount.uid_mappings = ids.to_vec();
        mount.gid_mappings = ids.to_vec();
    }
    Ok(mounts)
}

/// Whether the path lies in a volume: a file that we mount there would have to be made in the volume first.
fn is_covered(path: &str, container: &Container) -> bool {
    container.mounts.iter().any(|mount| Path::new(path).starts_with(&mount.target))
}

fn own(source: &Path, target: &str, readonly: bool) -> Mount {
    Mount {
        container_path: target.to_owned(),
        host_path: source.display().to_string(),
        readonly,
        ..Mount::default()
    }
}

fn make_message(path: &Path) -> Result<(), PlaceError> {
    let made =
        fs::write(path, "").and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o666)));
    made.map_err(PlaceError::io("make", path))
}

/// The agent looks the sub path up, for it is within the image and not on our disk.
fn of_image(reference: &str, image: &Image, mount: &VolumeMount, common: Mount) -> Mount {
    let image = ImageSpec {
        // Names can move to another image while the pod runs.
        image: image.id.clone(),
        user_specified_image: reference.to_owned(),
        ..ImageSpec::default()
    };
    Mount { image: Some(image), image_sub_path: mount.sub_path.clone(), readonly: true, ..common }
}

fn source(root: &Path, mount: &VolumeMount, held: &mut Vec<OwnedFd>) -> Result<String, VolumeError> {
    if mount.sub_path.is_empty() {
        return Ok(root.display().to_string());
    }
    let opened = sub_path::open(root, Path::new(&mount.sub_path));
    let fd = opened.map_err(|source| VolumeError::SubPath { path: mount.path.clone(), source })?;
    let name = sub_path::name(&fd);
    held.push(fd);
    Ok(name)
}

fn recursive_read_only(asked: RecursiveReadOnly) -> bool {
    match asked {
        RecursiveReadOnly::Disabled => false,
        RecursiveReadOnly::IfPossible => holdfast_spec::kernel_version() >= (5, 12),
        RecursiveReadOnly::Enabled => true,
    }
}

/// The emptyDirs that have a limit: name, directory, bytes.
pub fn limited(pod: &Pod, place: &Place) -> Vec<(String, PathBuf, u64)> {
    let limit = |volume: &Volume| match volume.source {
        VolumeSource::EmptyDir { size_limit_bytes: Some(limit) } if limit > 0 => {
            Some((volume.name.clone(), place.volume(&volume.name), limit))
        }
        _ => None,
    };
    pod.volumes.iter().filter_map(limit).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "volumes_tests.rs"]
mod tests;
