//! What is mounted in a container: the system's file systems, the pod's files, the image's volumes, the container's own.

use std::path::{Path, PathBuf};

use holdfast_model::MountPropagation;
use holdfast_pod::launch::ImageVolume;
use oci_spec::runtime::Mount as OciMount;

use crate::{
    bind::{Bind, Maps, bind},
    build::Inputs,
    cdi,
    error::{SpecError, invalid},
    namespaces::Namespaces,
    relabel, text,
};

/// The mounts of a container.
#[derive(Debug)]
pub struct Mounts {
    /// In the order in which they are to be made.
    pub list: Vec<OciMount>,
    /// `rslave` or `rshared` if a mount asks for propagation.
    pub root_propagation: Option<&'static str>,
    /// The image's volumes, which the container may write to even if its root is read-only.
    pub volumes: Vec<PathBuf>,
    /// Sources that get the container's SELinux label: the pod's files, and what the request says.
    pub relabel: Vec<PathBuf>,
    /// Sources that are made if nothing is there: a kubelet makes none for a hostPath volume without a type.
    pub make_sources: Vec<PathBuf>,
    /// The images that are mounted.
    pub image_volumes: Vec<ImageVolume>,
    /// /dev/shm is the holder's and no mount of the list.
    pub pod_shm: bool,
}

/// All mounts of a container.
pub fn mounts(inputs: &Inputs<'_>, namespaces: &Namespaces) -> Result<Mounts, SpecError> {
    let own = &inputs.container.mounts;
    let maps = Maps::of(namespaces);
    let mut relabel = relabel::sources(inputs)?;
    // What a CDI device or the pod's own files lack is no directory, so only the request's.
    let make_sources = own.iter().filter(|m| m.image.is_none()).map(|m| m.host_path.clone().into()).collect();
    let mut binds: Vec<Bind> =
        own.iter().enumerate().map(|(i, mount)| bind(inputs, mount, i)).collect::<Result<_, _>>()?;
    for of_device in cdi::mounts(inputs.cdi, &maps)? {
        // It takes the place of what is there.
        binds.retain(|bind| bind.target != of_device.target);
        binds.push(of_device);
    }
    let taken: Vec<PathBuf> = binds.iter().map(|bind| bind.target.clone()).collect();
    let volumes = volumes(inputs, &taken)?;
    for (source, target, readonly) in pod_files(inputs) {
        if !taken.contains(&target) {
            relabel.push(source.clone());
            binds.push(Bind::of_ours(source, target, readonly, &maps));
        }
    }
    let host_shm = namespaces.host_ipc() && !covered(Path::new("/dev/shm"), &taken);
    if host_shm {
        binds.push(Bind::of_ours("/dev/shm".into(), "/dev/shm".into(), false, &Maps::default()));
    }
    // High ones first, so that none hides another; those of equal depth stay in their order.
    binds.sort_by_key(|bind| bind.target.components().count());

    let targets: Vec<PathBuf> = binds.iter().map(|bind| bind.target.clone()).collect();
    let mut list: Vec<OciMount> = system(inputs.container.security.privileged)
        .into_iter()
        .filter(|mount| !covered(mount.destination(), &targets))
        .collect();
    let root_propagation =
        binds.iter().map(|bind| bind.propagation).max_by_key(|p| rank(*p)).and_then(of_root);
    let mut image_volumes = Vec::new();
    for bind in binds {
        let volume = bind.image.clone();
        image_volumes.extend(volume.map(|volume| ImageVolume { mount: list.len(), ..volume }));
        list.push(bind.into_oci()?);
    }
    let pod_shm = !namespaces.host_ipc() && !covered(Path::new("/dev/shm"), &taken);
    Ok(Mounts { list, root_propagation, volumes, relabel, make_sources, image_volumes, pod_shm })
}

/// A mount of the request takes the place of a system's one at the same path, and of all below a /dev.
fn covered(path: &Path, targets: &[PathBuf]) -> bool {
    targets.iter().any(|target| target == path || (target == Path::new("/dev") && path.starts_with("/dev")))
}

fn rank(propagation: MountPropagation) -> u8 {
    match propagation {
        MountPropagation::Private => 0,
        MountPropagation::HostToContainer => 1,
        MountPropagation::Bidirectional => 2,
    }
}

fn of_root(propagation: MountPropagation) -> Option<&'static str> {
    match propagation {
        MountPropagation::Private => None,
        MountPropagation::HostToContainer => Some("rslave"),
        MountPropagation::Bidirectional => Some("rshared"),
    }
}

/// The system's, with containerd's options. A privileged container may write to sysfs and its cgroups.
fn system(privileged: bool) -> Vec<OciMount> {
    let mode = if privileged { "rw" } else { "ro" };
    let table: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", mode]),
    ];
    let mount = |(target, kind, source, options): (&str, &str, &str, &[&str])| {
        let mut mount = OciMount::default();
        mount
            .set_destination(target.into())
            .set_typ(Some(kind.into()))
            .set_source(Some(source.into()))
            .set_options(Some(options.iter().map(ToString::to_string).collect()));
        mount
    };
    table.into_iter().map(mount).collect()
}

fn pod_files(inputs: &Inputs<'_>) -> [(PathBuf, PathBuf, bool); 3] {
    let readonly = inputs.container.security.readonly_rootfs;
    let files = &inputs.files;
    [
        (files.hostname.clone(), "/etc/hostname".into(), readonly),
        (files.hosts.clone(), "/etc/hosts".into(), readonly),
        (files.resolv_conf.clone(), "/etc/resolv.conf".into(), readonly),
    ]
}

/// The image's volumes. They are directories of the container's root, which is its own anyway and goes with it. The
/// image does not get to cover what is the system's, so volumes in /proc, /sys and /dev are left out, as are those at or
/// below a mount of the request: what the user put there is what shall be seen.
fn volumes(inputs: &Inputs<'_>, taken: &[PathBuf]) -> Result<Vec<PathBuf>, SpecError> {
    let mut targets = Vec::new();
    for (index, path) in inputs.image.config.volumes.iter().enumerate() {
        let field = format!("image.config.Volumes[{index}]");
        text::plain(&field, path)?;
        let target = text::clean(path);
        if target == Path::new("/") {
            return Err(invalid(field, "a volume cannot take the place of the root: rebuild the image"));
        }
        let mut above =
            ["/proc", "/sys", "/dev"].iter().map(Path::new).chain(taken.iter().map(PathBuf::as_path));
        if !above.any(|above| target.starts_with(above)) {
            targets.push(target);
        }
    }
    targets.sort();
    targets.dedup();
    Ok(targets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "mounts_tests.rs"]
mod tests;
