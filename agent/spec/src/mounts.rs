//! What is mounted in a container: the system's file systems, the pod's files, the image's volumes, the container's own.

use std::path::{Path, PathBuf};

use holdfast_model::{IdMapping, Mount, MountPropagation};
use oci_spec::runtime::{LinuxIdMapping, Mount as OciMount, MountBuilder};

use crate::{
    build::Inputs,
    error::{SpecError, invalid, unsupported},
    namespaces::{Namespaces, check_mapping},
    oci, text,
};

/// Options that a mount of a request may have on top; each only narrows what can be done, or concerns access times.
const EXTRA_OPTIONS: [&str; 8] =
    ["noexec", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];

/// Single files of /proc that a mount may cover, as runc has them: what lxcfs and the like put there.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

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
    /// /dev/shm is the holder's and no mount of the list.
    pub pod_shm: bool,
}

/// All mounts of a container.
pub fn mounts(inputs: &Inputs<'_>, namespaces: &Namespaces) -> Result<Mounts, SpecError> {
    let own = &inputs.container.mounts;
    let taken: Vec<PathBuf> = own.iter().map(|mount| text::clean(&mount.container_path)).collect();
    let volumes = volumes(inputs, &taken)?;

    let mut relabel = relabelled(inputs)?;
    let mut binds: Vec<Bind> =
        own.iter().enumerate().map(|(i, mount)| bind(inputs, mount, i)).collect::<Result<_, _>>()?;
    let maps = Maps::of(namespaces);
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
    for bind in binds {
        list.push(bind.into_oci()?);
    }
    let pod_shm = !namespaces.host_ipc() && !covered(Path::new("/dev/shm"), &taken);
    Ok(Mounts { list, root_propagation, volumes, relabel, pod_shm })
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

/// Directories of the system's own, which no container may have relabelled (selinux(8): the node would not boot again).
const NEVER_RELABELLED: [&str; 15] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var",
];

/// Volumes that the request wants to have relabelled. Without SELinux that asks for nothing.
fn relabelled(inputs: &Inputs<'_>) -> Result<Vec<PathBuf>, SpecError> {
    let mut sources = Vec::new();
    for (index, mount) in inputs.container.mounts.iter().enumerate() {
        if !mount.selinux_relabel || mount.host_path.is_empty() {
            continue;
        }
        if inputs.host.selinux.is_some()
            && NEVER_RELABELLED.iter().any(|path| text::clean(&mount.host_path) == Path::new(path))
        {
            let problem =
                format!("would change the labels of {}: choose a directory below it", mount.host_path);
            return Err(invalid(format!("mounts[{index}].selinux_relabel"), problem));
        }
        sources.push(mount.host_path.clone().into());
    }
    Ok(sources)
}

/// Id mappings of a mount.
#[derive(Debug, Clone, Default)]
struct Maps {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl Maps {
    fn of(namespaces: &Namespaces) -> Self {
        let map = |maps: &[holdfast_pod::launch::IdMap]| {
            maps.iter().map(|map| oci::mapping(map.inside, map.outside, map.count)).collect()
        };
        Self { uids: map(&namespaces.uid_map), gids: map(&namespaces.gid_map) }
    }

    fn of_request(mount: &Mount, field: &str) -> Result<Self, SpecError> {
        if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
            return Err(invalid(field, "has id mappings for uids or gids alone: give both or none"));
        }
        let convert = |maps: &[IdMapping], name: &str| {
            let one = |map: &IdMapping| {
                check_mapping(*map, &format!("{field}.{name}"))?;
                Ok(oci::mapping(map.container_id, map.host_id, map.length))
            };
            maps.iter().map(one).collect::<Result<_, SpecError>>()
        };
        Ok(Self {
            uids: convert(&mount.uid_mappings, "uidMappings")?,
            gids: convert(&mount.gid_mappings, "gidMappings")?,
        })
    }
}

/// A bind mount.
struct Bind {
    source: PathBuf,
    target: PathBuf,
    propagation: MountPropagation,
    options: Vec<String>,
    maps: Maps,
}

impl Bind {
    fn of_ours(source: PathBuf, target: PathBuf, readonly: bool, maps: &Maps) -> Self {
        let options = ["rbind", "rprivate", if readonly { "ro" } else { "rw" }].map(str::to_owned).to_vec();
        Self { source, target, propagation: MountPropagation::Private, options, maps: maps.clone() }
    }

    fn into_oci(self) -> Result<OciMount, SpecError> {
        let target = self.target.display().to_string();
        let builder = MountBuilder::default()
            .destination(self.target)
            .typ("bind")
            .source(self.source)
            .options(self.options)
            .uid_mappings(self.maps.uids)
            .gid_mappings(self.maps.gids);
        let mut mount =
            builder.build().map_err(|error| invalid(format!("mount {target}"), error.to_string()))?;
        if mount.uid_mappings().as_ref().is_some_and(Vec::is_empty) {
            mount.set_uid_mappings(None).set_gid_mappings(None);
        }
        Ok(mount)
    }
}

/// A mount of the request. Whether its source is there is found out by whoever opens it, which is when it counts.
fn bind(inputs: &Inputs<'_>, mount: &Mount, index: usize) -> Result<Bind, SpecError> {
    let field = format!("mounts[{index}]");
    text::absolute(&format!("{field}.container_path"), &mount.container_path)?;
    let target = text::clean(&mount.container_path);
    check_target(&target, mount, &format!("{field}.container_path"))?;
    if mount.image.is_some() && mount.host_path.is_empty() {
        return Err(unsupported(
            format!("{field}.image"),
            "image volumes are not supported yet: mount a host path",
        ));
    }
    text::absolute(&format!("{field}.host_path"), &mount.host_path)?;
    let propagation = match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation, access(inputs, mount, &field)?];
    for option in &mount.mount_options {
        let known = EXTRA_OPTIONS.iter().find(|known| *known == option).ok_or_else(|| {
            let problem = format!("{option:?} is not possible here: use of {}", EXTRA_OPTIONS.join(", "));
            invalid(format!("{field}.mount_options"), problem)
        })?;
        options.push(known);
    }
    let options = options.into_iter().map(str::to_owned).collect();
    let maps = Maps::of_request(mount, &field)?;
    Ok(Bind { source: mount.host_path.clone().into(), target, propagation: mount.propagation, options, maps })
}

/// procfs is what labels, limits and masks are written through and seen in: only the host's own may take its place.
fn check_target(target: &Path, mount: &Mount, field: &str) -> Result<(), SpecError> {
    if target == Path::new("/") {
        return Err(invalid(field, "the root cannot be a mount: choose a directory below it"));
    }
    let host_proc = target == Path::new("/proc") && text::clean(&mount.host_path) == Path::new("/proc");
    let allowed = PROC_FILES.iter().any(|file| target == Path::new(file)) || host_proc;
    if target.starts_with("/proc") && !allowed {
        return Err(invalid(field, "/proc cannot be covered: mount it elsewhere"));
    }
    Ok(())
}

fn access(inputs: &Inputs<'_>, mount: &Mount, field: &str) -> Result<&'static str, SpecError> {
    let recursive = format!("{field}.recursive_read_only");
    match (mount.readonly, mount.recursive_read_only) {
        (false, false) => Ok("rw"),
        (true, false) => Ok("ro"),
        (false, true) => Err(invalid(recursive, "is set without readonly: set that too")),
        (true, true) if mount.propagation != MountPropagation::Private => {
            Err(invalid(recursive, "goes with private propagation only: change propagation"))
        }
        (true, true) if !inputs.host.features.recursive_read_only_mounts => {
            Err(unsupported(recursive, "needs Linux 5.12: use readonly alone"))
        }
        (true, true) => Ok("rro"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "mounts_tests.rs"]
mod tests;
