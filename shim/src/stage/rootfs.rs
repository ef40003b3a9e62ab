//! The container's root: an overlay, made detached on the host, attached and entered in the container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_pod::launch::Rootfs;
use holdfast_sys::error::{CallError, Result as CallResult};
use holdfast_sys::mount::{self, Change, FileSystem, RDONLY};
use holdfast_sys::path::{Root, of_descriptor};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::launch::{Launch, root_is_read_only};
use super::{Taken, builder, hide, label};
use crate::fault::{OrFail, Result, invalid};

const STAGE: &str = "make root file system";
/// Where the holder keeps a place for us.
pub const PLACE: &str = "/root";
/// Longest string that fsconfig(2) takes, with its end.
const LONGEST_STRING: usize = 256;

/// No sync of the upper directory's whole file system when the overlay goes (Linux 5.10), which is in the exit of the
/// container's last process: it would be killed, and not end before all that others have written is on the disk. An
/// overlay of that kind cannot be mounted a second time, and none of ours is.
pub const VOLATILE: &str = "volatile";

/// Makes the root as a detached mount.
pub fn make(launch: &Launch, user_namespace: Option<&OwnedFd>) -> Result<OwnedFd> {
    let rootfs = &launch.rootfs;
    check_layers(STAGE, &rootfs.layers)?;
    // overlayfs refuses a single layer: it is bound.
    if let ([only], true) = (rootfs.layers.as_slice(), rootfs.upper.as_os_str().is_empty()) {
        return layer(only, user_namespace).or_fail(STAGE);
    }
    let label = label::of_mounts(launch);
    match overlay(rootfs, label, user_namespace) {
        Ok(mount) => Ok(mount),
        Err(e) if is_for_the_builder(&e) => builder::overlay(rootfs, label, user_namespace, None),
        Err(e) => Err(e).or_fail(STAGE),
    }
}

/// All of them are there.
pub fn check_layers(stage: &str, layers: &[PathBuf]) -> Result<()> {
    if layers.is_empty() {
        return Err(invalid(stage, "the launch names no layer"));
    }
    match layers.iter().find(|layer| !layer.is_dir()) {
        Some(missing) => Err(invalid(stage, format!("layer {} is not there", missing.display()))),
        None => Ok(()),
    }
}

/// `lowerdir+` came in 6.8 (else EINVAL), by descriptor in 6.13 (else EBADF), detached mounts as layers and as what is
/// copied in 6.15 (else EINVAL): elsewhere somebody else makes it.
pub fn is_for_the_builder(error: &CallError) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::BADF].into_iter().any(|errno| error.is(errno))
}

/// A layer as a detached mount, id-mapped for the user namespace.
pub fn layer(path: &Path, user_namespace: Option<&OwnedFd>) -> CallResult<OwnedFd> {
    let tree = mount::copy_path(path, false)?;
    // A container that asks for "private" gets it; a layer must not be a peer of a shared mount of the host.
    let change = Change {
        propagation: Some(mount::Propagation::Private),
        id_map: user_namespace.map(AsFd::as_fd),
        ..Change::default()
    };
    mount::set_attributes(&tree, false, change)?;
    Ok(tree)
}

/// The overlay as a detached mount, where the kernel can make it without a name. Without an upper directory it is
/// read-only; a single layer then gets an empty one below it, for overlayfs refuses one alone.
pub fn overlay(
    rootfs: &Rootfs,
    label: Option<&str>,
    user_namespace: Option<&OwnedFd>,
) -> CallResult<OwnedFd> {
    let fs = FileSystem::open("overlay")?;
    fs.string("source", "overlay")?;
    if let Some(label) = label {
        fs.string("context", label)?;
    }
    // Kept open until the mount is made: their numbers stand for them.
    let mut held = Vec::new();
    // overlayfs wants the topmost first.
    for path in rootfs.layers.iter().rev() {
        if user_namespace.is_some() {
            let layer = layer(path, user_namespace)?;
            fs.descriptor("lowerdir+", layer.as_fd())?;
            held.push(layer);
        } else {
            directory(&fs, "lowerdir+", path, &mut held)?;
        }
    }
    if is_alone(rootfs) {
        let bottom = FileSystem::open("tmpfs")?.mount(RDONLY)?;
        fs.descriptor("lowerdir+", bottom.as_fd())?;
        held.push(bottom);
    }
    if !rootfs.upper.as_os_str().is_empty() {
        directory(&fs, "upperdir", &rootfs.upper, &mut held)?;
        directory(&fs, "workdir", &rootfs.work, &mut held)?;
        fs.flag(VOLATILE)?;
    }
    fs.mount(0)
}

/// There is one layer and nothing on top of it.
pub fn is_alone(rootfs: &Rootfs) -> bool {
    rootfs.layers.len() == 1 && rootfs.upper.as_os_str().is_empty()
}

/// By its name, which then shows in mountinfo, or by a descriptor if the name is too long or needs quoting.
fn directory(fs: &FileSystem, key: &str, path: &Path, held: &mut Vec<OwnedFd>) -> CallResult<()> {
    if let Some(name) =
        path.to_str().filter(|name| name.len() < LONGEST_STRING && !name.contains(['\\', ':', ',']))
    {
        return fs.string(key, name);
    }
    let fd = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CallError::new(format!("open(\"{}\")", path.display()), e))?;
    let name = of_descriptor(&fd);
    held.push(fd);
    fs.string(key, &name)
}

/// Attaches the root, and below it what hiding and the user namespace need, in our copy of the holder's mounts.
pub fn attach(taken: &Taken) -> Result<Root> {
    const STAGE: &str = "attach root file system";
    mount::make_all_private().or_fail(STAGE)?;
    let place = openat(CWD, PLACE, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_fail("open the place for the root")?;
    hide::attach(&taken.hidden, &taken.sources.visible, &place)?;
    // On top of that: a mount goes on what was mounted there last.
    mount::attach(&taken.root, &place).or_fail(STAGE)?;
    super::root_of(&taken.root)
}

/// Makes the root ours; what lay around it goes.
#[expect(
    clippy::needless_pass_by_value,
    reason = "its descriptor has to be closed before all of them are, by number"
)]
pub fn enter(launch: &Launch, root: Root) -> Result<()> {
    if root_is_read_only(launch) {
        let change = Change { set: RDONLY, ..Change::default() };
        mount::set_attributes(root.as_fd(), false, change).or_fail("make root read-only")?;
    }
    mount::pivot_to(root.as_fd()).or_fail("change root")
}

/// Paths of an overlay, for the builder.
pub fn lowest_last(rootfs: &Rootfs) -> impl Iterator<Item = &PathBuf> {
    rootfs.layers.iter().rev()
}
