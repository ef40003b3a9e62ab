//! What is in the store's directories and nobody knows: left over by a process that ended in the middle.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use super::home::{Home, names, unlink};
use super::model::Model;
use crate::Error;
use crate::digest::Digest;

/// Removes it. Blocking; nothing may be given a name meanwhile.
pub(super) fn remove(home: &Home, model: &Model) -> Result<(), Error> {
    let with_directories = model.images.iter().filter(|(_, image)| image.directories.is_some());
    let directories = with_directories.map(|(id, _)| id.hex()).collect();
    // Those of images as well as those that are whole: a container may run from a layer that has lost a file.
    let of_images = model.images.values().flat_map(|image| &image.diff_ids);
    let layers = model.layers.keys().chain(of_images).map(Digest::hex).collect();
    let blobs = model.blobs().into_iter().map(Digest::hex).collect();
    for name in unknown(home.blobs.as_fd(), &blobs)? {
        unlink(&home.blobs, &name)?;
    }
    for (directory, known) in [(&home.directories, &directories), (&home.layers, &layers)] {
        for name in unknown(directory.as_fd(), known)? {
            home.throw_away(directory.as_fd(), &name)?;
        }
    }
    Ok(())
}

fn unknown(directory: BorrowedFd<'_>, known: &HashSet<&str>) -> Result<Vec<String>, Error> {
    let mut names =
        names(directory).map_err(|errno| Error::io("read a directory of the image store", errno))?;
    names.retain(|name| !known.contains(name.as_str()));
    for name in &names {
        tracing::info!(name, "left over from an interrupted pull: removed");
    }
    Ok(names)
}
