//! The host's side of bind mounts, as detached copies with their attributes and id maps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use holdfast_sys::mount::{self, Change};
use holdfast_sys::ns;
use holdfast_sys::path::{is_directory, make_directories};
use oci_spec::runtime::Mount;
use rustix::io::Errno;

use super::images;
use super::label;
use super::launch::{Launch, has_user_namespace, mounts};
use super::options::Options;
use super::propagation;
use crate::fault::{OrFail, Result, invalid};

/// A detached copy of something on the host.
#[derive(Debug)]
pub struct Source {
    /// The mount.
    pub tree: OwnedFd,
    /// Its root is a directory.
    pub directory: bool,
}

/// What was opened.
#[derive(Debug, Default)]
pub struct Sources {
    /// One entry for each mount of the spec; `None`: it has no source on the host.
    pub of_mount: Vec<Option<Source>>,
    /// Copies of the host's proc and sysfs. A user namespace may mount either only where one can be seen already, and
    /// the holder's few mounts have none.
    pub visible: Vec<OwnedFd>,
}

impl Sources {
    /// All descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let sources = self.of_mount.iter().flatten().map(|source| source.tree.as_raw_fd());
        sources.chain(self.visible.iter().map(AsRawFd::as_raw_fd))
    }
}

/// Opens every source that the spec names.
pub fn open(launch: &Launch, user_namespace: Option<&OwnedFd>) -> Result<Sources> {
    make_missing(launch)?;
    let mut sources = Sources::default();
    for (place, mount) in mounts(launch).iter().enumerate() {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let image = launch.image_volumes.iter().find(|volume| volume.mount == place);
        let source = if let Some(image) = image {
            Some(images::open(image, &options, label::of_mounts(launch), user_namespace)?)
        } else if options.bind || mount.typ().as_deref() == Some("bind") {
            Some(open_one(launch, mount, &options, user_namespace)?)
        } else if needs_host_sysfs(launch, mount) {
            Some(host_sysfs(&options)?)
        } else {
            None
        };
        sources.of_mount.push(source);
    }
    if has_user_namespace(launch) {
        for path in ["/proc", "/sys"] {
            let copy = mount::copy_path(Path::new(path), false);
            sources.visible.push(copy.or_fail(&format!("copy the host's {path}"))?);
        }
    }
    Ok(sources)
}

/// Opens the images that are mounted, by their places in the spec's list: for a runtime that opens the rest itself.
pub fn open_images(launch: &Launch, user_namespace: Option<&OwnedFd>) -> Result<Vec<(usize, Source)>> {
    let one = |(place, mount): (usize, &Mount)| {
        let image = launch.image_volumes.iter().find(|volume| volume.mount == place)?;
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let source = images::open(image, &options, label::of_mounts(launch), user_namespace);
        Some(source.map(|source| (place, source)))
    };
    mounts(launch).iter().enumerate().filter_map(one).collect()
}

/// Makes the sources of the request that are not there, as containerd and CRI-O do. They stay if the start fails, as
/// with these: somebody else may have begun to use them.
pub fn make_missing(launch: &Launch) -> Result<()> {
    for path in launch.make_sources.iter().filter(|path| path.is_absolute()) {
        let stage = format!("make mount source {}", path.display());
        make_directories(path)
            .or_invalid(&stage, "see the path on the host: it is not there and cannot be made")?;
    }
    Ok(())
}

/// Gives sources the container's SELinux label: for the same runtime, which knows nothing of that.
pub fn relabel(launch: &Launch) -> Result<()> {
    let Some(label) = label::of_mounts(launch) else { return Ok(()) };
    for path in &launch.relabel {
        let stage = format!("open mount source {}", path.display());
        let tree = mount::copy_path(path, true).or_invalid(&stage, "see the path on the host")?;
        label::relabel(&tree, label)
            .or_invalid(&stage, "it cannot be given the container's SELinux label")?;
    }
    Ok(())
}

fn open_one(
    launch: &Launch,
    mount: &Mount,
    options: &Options,
    user_namespace: Option<&OwnedFd>,
) -> Result<Source> {
    let path = mount.source().as_deref().unwrap_or(Path::new(""));
    let stage = format!("open mount source {}", path.display());
    if !path.is_absolute() {
        let target = mount.destination().display();
        return Err(invalid(&stage, format!("the source of the mount at {target} is not an absolute path")));
    }
    let tree = mount::copy_path(path, options.recursive).map_err(|e| {
        let advice = if e.is(Errno::NOENT) {
            "make it on the host, or take the mount out"
        } else {
            "see the path on the host"
        };
        crate::fault::failure(
            holdfast_pod::protocol::FaultKind::Invalid,
            &stage,
            e.errno(),
            format!("{}: {advice}", std::io::Error::from_raw_os_error(e.errno())),
        )
    })?;
    if let Some((propagation, _)) = options.propagation {
        propagation::check(path, propagation, &stage)?;
    }
    // Before it may become read-only.
    if let Some(label) = label::of_mounts(launch).filter(|_| launch.relabel.iter().any(|one| one == path)) {
        label::relabel(&tree, label)
            .or_invalid(&stage, "it cannot be given the container's SELinux label")?;
    }
    options.apply(&tree).or_invalid(&stage, "the kernel refuses these options for this source")?;
    if let Some(map) = user_namespace.filter(|_| is_mapped(mount)) {
        let change = Change { id_map: Some(map.as_fd()), ..Change::default() };
        mount::set_attributes(&tree, options.map_all, change).or_invalid(
            &stage,
            "its file system has no id-mapped mounts: leave the id mappings out, or move it",
        )?;
    }
    let directory = is_directory(&tree, path).or_fail(&stage)?;
    Ok(Source { tree, directory })
}

fn is_mapped(mount: &Mount) -> bool {
    let some = |map: &Option<Vec<_>>| map.as_ref().is_some_and(|map| !map.is_empty());
    some(mount.uid_mappings()) || some(mount.gid_mappings())
}

/// sysfs shows a network namespace; one of the host's is not for a user namespace to mount (EPERM).
fn needs_host_sysfs(launch: &Launch, mount: &Mount) -> bool {
    let host_network = launch.join & ns::NEWNET == 0;
    mount.typ().as_deref() == Some("sysfs") && has_user_namespace(launch) && host_network
}

fn host_sysfs(options: &Options) -> Result<Source> {
    const STAGE: &str = "copy the host's /sys";
    let tree = mount::copy_path(Path::new("/sys"), true).or_fail(STAGE)?;
    options.apply(&tree).or_fail(STAGE)?;
    Ok(Source { tree, directory: true })
}
