//! Images that are mounted: an overlay of the image's layers with nothing to write to.
//!
//! Always an overlay, also of a single layer. A bind of the layer would be as read-only as its mount, and a container
//! with CAP_SYS_ADMIN makes a mount writable again: it would write into a layer that other images are made of. An
//! overlay without an upper directory is read-only in its superblock, which nobody can change.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use holdfast_pod::launch::{ImageVolume, Rootfs};
use holdfast_pod::protocol::Failure;
use holdfast_sys::mount::copy_tree;
use rustix::fs::{FileType, OFlags, fstat};

use super::options::Options;
use super::sources::Source;
use super::{builder, root_of, rootfs};
use crate::fault::{OrFail, Result, invalid};

/// What cri-api (pkg/errors) has failures of image volumes begin with.
const FAILED: &str = "ImageVolumeMountFailed";

/// Makes the mount of an image, detached, with its options.
pub fn open(
    volume: &ImageVolume,
    options: &Options,
    label: Option<&str>,
    user_namespace: Option<&OwnedFd>,
) -> Result<Source> {
    let stage = format!("{FAILED}: mount image {}", volume.image);
    rootfs::check_layers(&stage, &volume.layers)?;
    let layers = Rootfs { layers: volume.layers.clone(), ..Rootfs::default() };
    let whole = match rootfs::overlay(&layers, label, user_namespace) {
        Ok(whole) => Some(whole),
        Err(e) if rootfs::is_for_the_builder(&e) => None,
        Err(e) => return Err(e).or_fail(&stage),
    };
    let tree = match whole {
        Some(whole) if volume.sub_path.as_os_str().is_empty() => whole,
        Some(whole) => {
            let part = look_up(&whole, volume)?;
            match copy_tree(part.as_fd(), Path::new(""), false) {
                Ok(part) => part,
                // A detached mount can be copied since 6.15.
                Err(e) if rootfs::is_for_the_builder(&e) => {
                    with_builder(&layers, label, user_namespace, volume, &stage)?
                }
                Err(e) => return Err(e).or_fail(&stage),
            }
        }
        None => with_builder(&layers, label, user_namespace, volume, &stage)?,
    };
    options.apply(&tree).or_invalid(&stage, "the kernel refuses these mount options for an image")?;
    let directory = kind(&tree, &stage)? == FileType::Directory;
    Ok(Source { tree, directory })
}

fn with_builder(
    layers: &Rootfs,
    label: Option<&str>,
    user_namespace: Option<&OwnedFd>,
    volume: &ImageVolume,
    stage: &str,
) -> Result<OwnedFd> {
    builder::overlay(layers, label, user_namespace, Some(volume)).map_err(|failure| {
        let told = failure.stage.starts_with(FAILED);
        Failure { stage: if told { failure.stage } else { format!("{stage}: {}", failure.stage) }, ..failure }
    })
}

/// Opens the volume's sub path within the image: a link of the image leads to nowhere else.
pub fn look_up(whole: &OwnedFd, volume: &ImageVolume) -> Result<OwnedFd> {
    let path = volume.sub_path.display();
    let stage = format!("{FAILED}: open sub path {path} of image {}", volume.image);
    let part = root_of(whole)?
        .open(&volume.sub_path, OFlags::PATH)
        .or_invalid(&stage, "name a directory or a file of the image")?;
    match kind(&part, &stage)? {
        FileType::Directory | FileType::RegularFile => Ok(part),
        _ => Err(invalid(&stage, "it is neither a directory nor a file: name one of the image")),
    }
}

fn kind(fd: &OwnedFd, stage: &str) -> Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd).or_fail(stage)?.st_mode))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "images_tests.rs"]
mod tests;
