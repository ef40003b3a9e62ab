//! The spec's mounts, in its order.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use holdfast_sys::mount::{self, FileSystem, NODEV, NOEXEC, NOSUID};
use holdfast_sys::path::{Kind, Root};
use oci_spec::runtime::Mount;
use rustix::fs::OFlags;

use super::launch::{Launch, linux, mounts, process, root_is_read_only};
use super::options::Options;
use super::sources::Source;
use super::{Taken, cgroup, command, devices, label};
use crate::fault::{OrFail, Result, invalid};

const SHM: &str = "/dev/shm";

/// Mounts that later stages use, by descriptor: a path to them could have been swapped.
#[derive(Debug, Default)]
pub struct Made {
    /// A procfs of our own: the one that is mounted, or one for nobody else where the spec mounts none that is writable.
    pub proc: Option<OwnedFd>,
    /// Our own devpts.
    pub devpts: Option<OwnedFd>,
}

/// Makes them all below `root`.
pub fn make(taken: &Taken, root: &Root) -> Result<Made> {
    let all = mounts(&taken.launch);
    let mut made = Made::default();
    volumes(&taken.launch, root)?;
    if !all.iter().any(|mount| mount.destination() == Path::new("/dev")) {
        pod_shm(taken, root)?;
    }
    for (mount, source) in all.iter().zip(&taken.sources.of_mount) {
        let one = One::of(mount, root, label::of_mounts(&taken.launch))?;
        match (source, mount.typ().as_deref().unwrap_or_default()) {
            (Some(source), _) => one.bind(source)?,
            (None, "proc") => made.proc = Some(one.plain("proc")?),
            (None, "sysfs") => drop(one.plain("sysfs")?),
            (None, "cgroup" | "cgroup2") => {
                let target = one.target(Kind::Directory)?;
                cgroup::mount(&taken.cgroups, &one.options, &target, one.path, root)?;
            }
            (None, "tmpfs") if devices::is_dev(mount) => one.dev(taken.devices.as_ref())?,
            (None, "devpts") => made.devpts = Some(one.file_system("devpts")?),
            (None, "") => return Err(invalid(&one.stage, "it has neither a type nor the option bind")),
            (None, kind) => drop(one.file_system(kind)?),
        }
        if one.path == Path::new("/dev") {
            pod_shm(taken, root)?;
        }
    }
    // The host's may be bound at /proc, read-only perhaps.
    if made.proc.is_none() && needs_proc(&taken.launch)? {
        let own = FileSystem::open("proc").and_then(|fs| fs.mount(NOSUID | NODEV | NOEXEC));
        made.proc = Some(own.or_fail("mount a procfs for labels and sysctls")?);
    }
    Ok(made)
}

/// Something has to be written in there.
fn needs_proc(launch: &Launch) -> Result<bool> {
    let sysctls = linux(launch).and_then(|linux| linux.sysctl().as_ref()).is_some_and(|all| !all.is_empty());
    Ok(sysctls || command::has_label(process(launch)?))
}

/// The image's volumes. Each is a directory of the root; where the root will be read-only, a second mount of the same
/// directory that stays writable is put on top of it, so that the image's content is there without a copy.
fn volumes(launch: &Launch, root: &Root) -> Result<()> {
    for path in &launch.volumes {
        let stage = format!("make volume {}", path.display());
        let place =
            root.ensure(path, Kind::Directory).or_invalid(&stage, "it has to be a directory in the image")?;
        if root_is_read_only(launch) {
            let own = mount::copy_tree(place.as_fd(), Path::new(""), false).or_fail(&stage)?;
            mount::attach(own, place).or_fail(&stage)?;
        }
    }
    Ok(())
}

/// The pod's /dev/shm, which our copy of the holder's mounts still shows.
fn pod_shm(taken: &Taken, root: &Root) -> Result<()> {
    const STAGE: &str = "mount the pod's /dev/shm";
    if !taken.launch.pod_shm {
        return Ok(());
    }
    let target = root.ensure(Path::new(SHM), Kind::Directory).or_fail(STAGE)?;
    mount::copy_path(Path::new(SHM), false).and_then(|shm| mount::attach(shm, target)).or_fail(STAGE)
}

/// Gives a file system the options that are its own, and its label.
pub fn configure(fs: &FileSystem, options: &Options, label: Option<&str>, stage: &str) -> Result<()> {
    const ADVICE: &str = "the kernel does not know this mount option or its value";
    for option in &options.data {
        match option.split_once('=') {
            Some((key, value)) => fs.string(key, value),
            None => fs.flag(option),
        }
        .or_invalid(stage, ADVICE)?;
    }
    match label {
        Some(label) => fs.string("context", label).or_invalid(stage, "is it a label of this node's policy?"),
        None => Ok(()),
    }
}

/// One mount of the list.
struct One<'a> {
    path: &'a Path,
    options: Options,
    stage: String,
    root: &'a Root,
    label: Option<&'a str>,
}

impl<'a> One<'a> {
    fn of(mount: &'a Mount, root: &'a Root, label: Option<&'a str>) -> Result<Self> {
        let path = mount.destination().as_path();
        let stage = format!("mount {}", path.display());
        if !path.is_absolute() || path == Path::new("/") {
            return Err(invalid(&stage, "a mount point is an absolute path below /"));
        }
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        Ok(Self { path, options, stage, root, label })
    }

    fn target(&self, kind: Kind) -> Result<OwnedFd> {
        let what = if kind == Kind::Directory { "directory" } else { "file" };
        let advice =
            format!("the mount point has to be a {what} in the image, or something that can be made");
        self.root.ensure(self.path, kind).or_invalid(&self.stage, &advice)
    }

    fn bind(&self, source: &Source) -> Result<()> {
        let target = self.target(if source.directory { Kind::Directory } else { Kind::File })?;
        mount::attach(&source.tree, target).or_fail(&self.stage)
    }

    /// A mount that others trust to be what it is: no symlink of the image may have led to its place.
    fn plain(&self, kind: &str) -> Result<OwnedFd> {
        drop(self.target(Kind::Directory)?);
        let target = self
            .root
            .open_plain(self.path, OFlags::PATH | OFlags::DIRECTORY)
            .or_invalid(&self.stage, "it has to be a plain directory in the image, not a symlink")?;
        self.file_system_at(kind, &target)
    }

    fn file_system(&self, kind: &str) -> Result<OwnedFd> {
        let target = self.target(Kind::Directory)?;
        self.file_system_at(kind, &target)
    }

    fn file_system_at(&self, kind: &str, target: &OwnedFd) -> Result<OwnedFd> {
        let fs = FileSystem::open(kind).or_invalid(&self.stage, "this kernel has no such file system")?;
        configure(&fs, &self.options, self.label.filter(|_| label::is_mount_option(kind)), &self.stage)?;
        let mount = fs.mount(self.options.set).or_fail(&self.stage)?;
        mount::attach(&mount, target).or_fail(&self.stage)?;
        Ok(mount)
    }

    fn dev(&self, devices: Option<&devices::Devices>) -> Result<()> {
        let devices = devices.ok_or_else(|| invalid(&self.stage, "/dev was not made"))?;
        mount::attach(&devices.mount, self.target(Kind::Directory)?).or_fail(&self.stage)
    }
}
