//! Mounts of the request, and what of them is checked.

use std::path::{Path, PathBuf};

use holdfast_model::{IdMapping, ImageSpec, Mount, MountPropagation};
use holdfast_pod::launch::ImageVolume;
use oci_spec::runtime::{LinuxIdMapping, Mount as OciMount, MountBuilder};

use crate::{
    build::Inputs,
    error::{SpecError, invalid, unsupported},
    image_volume,
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

/// Id mappings of a mount.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl Maps {
    /// Those of the pod's user namespace.
    pub fn of(namespaces: &Namespaces) -> Self {
        Self { uids: oci::mappings(&namespaces.uid_map), gids: oci::mappings(&namespaces.gid_map) }
    }

    /// There is no user namespace.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
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

/// A mount that is not the system's: of the host, of an image, or what a CDI device says.
#[derive(Debug)]
pub struct Bind {
    kind: String,
    source: PathBuf,
    /// Where in the container, without `..`.
    pub target: PathBuf,
    /// How mounts below it show on the other side.
    pub propagation: MountPropagation,
    options: Vec<String>,
    maps: Maps,
    /// The image that it is of, if it is of one.
    pub image: Option<ImageVolume>,
}

impl Bind {
    /// A mount of a file of ours.
    pub fn of_ours(source: PathBuf, target: PathBuf, readonly: bool, maps: &Maps) -> Self {
        let options = ["rbind", "rprivate", if readonly { "ro" } else { "rw" }].map(str::to_owned).to_vec();
        Self::of_path(source, target, MountPropagation::Private, options, maps)
    }

    /// A mount of something of the host.
    pub fn of_path(
        source: PathBuf,
        target: PathBuf,
        propagation: MountPropagation,
        options: Vec<String>,
        maps: &Maps,
    ) -> Self {
        Self {
            kind: "bind".to_owned(),
            source,
            target,
            propagation,
            options,
            maps: maps.clone(),
            image: None,
        }
    }

    /// A mount of a new file system.
    pub fn of_file_system(kind: &str, source: &str, target: PathBuf, options: Vec<String>) -> Self {
        let propagation = MountPropagation::Private;
        let source = source.into();
        Self {
            kind: kind.to_owned(),
            source,
            target,
            propagation,
            options,
            maps: Maps::default(),
            image: None,
        }
    }

    /// As the spec has it.
    pub fn into_oci(self) -> Result<OciMount, SpecError> {
        let target = self.target.display().to_string();
        let builder = MountBuilder::default()
            .destination(self.target)
            .typ(self.kind)
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
pub fn bind(inputs: &Inputs<'_>, mount: &Mount, index: usize) -> Result<Bind, SpecError> {
    let field = format!("mounts[{index}]");
    text::absolute(&format!("{field}.container_path"), &mount.container_path)?;
    let target = text::clean(&mount.container_path);
    check_target(&target, Path::new(&mount.host_path), &format!("{field}.container_path"))?;
    if let Some(image) = &mount.image {
        return image_bind(inputs, mount, image, index, target);
    }
    if !mount.image_sub_path.is_empty() {
        return Err(invalid(format!("{field}.image_sub_path"), "is set without image: take it out"));
    }
    text::absolute(&format!("{field}.host_path"), &mount.host_path)?;
    let propagation = match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation, access(inputs, mount, &field)?];
    options.extend(extra_options(mount, &field)?);
    let options = options.into_iter().map(str::to_owned).collect();
    let maps = Maps::of_request(mount, &field)?;
    Ok(Bind::of_path(mount.host_path.clone().into(), target, mount.propagation, options, &maps))
}

/// A mount of an image. It is read-only whether the request says so or not, and nothing of the host shows in it, so that
/// propagation has no meaning. Its layers get the ids of the pod's user namespace in any case, as the container's own
/// image does; mappings of the request are checked and change nothing more.
fn image_bind(
    inputs: &Inputs<'_>,
    mount: &Mount,
    image: &ImageSpec,
    index: usize,
    target: PathBuf,
) -> Result<Bind, SpecError> {
    let field = format!("mounts[{index}]");
    let (found, volume) = image_volume::of(inputs, mount, image, index)?;
    access(inputs, mount, &field)?;
    Maps::of_request(mount, &field)?;
    let mut options = vec!["ro", "rprivate"];
    options.extend(extra_options(mount, &field)?);
    let lower = format!("lowerdir={}", image_volume::lower(&volume.layers));
    let options = options.into_iter().map(str::to_owned).chain([lower]).collect();
    Ok(Bind { image: Some(volume), ..Bind::of_file_system("overlay", &found, target, options) })
}

fn extra_options(mount: &Mount, field: &str) -> Result<Vec<&'static str>, SpecError> {
    let known = |option: &String| {
        EXTRA_OPTIONS.iter().find(|known| *known == option).copied().ok_or_else(|| {
            let problem = format!("{option:?} is not possible here: use of {}", EXTRA_OPTIONS.join(", "));
            invalid(format!("{field}.mount_options"), problem)
        })
    };
    mount.mount_options.iter().map(known).collect()
}

/// procfs is what labels, limits and masks are written through and seen in: only the host's own may take its place.
pub fn check_target(target: &Path, source: &Path, field: &str) -> Result<(), SpecError> {
    if target == Path::new("/") {
        return Err(invalid(field, "the root cannot be a mount: choose a directory below it"));
    }
    let host_proc = target == Path::new("/proc") && source == Path::new("/proc");
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
