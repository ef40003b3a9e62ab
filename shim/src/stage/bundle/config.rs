//! The spec of our own start, completed for a runtime that has nothing but the bundle: paths for what we pass as
//! descriptors, ids for what we find in the image.

use std::path::{Path, PathBuf};

use holdfast_pod::oci_runtime::OciRuntime;
use holdfast_pod::protocol::ResolvedUser;
use holdfast_sys::ns;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind, Mount, Process};

use super::super::launch::{Launch, has_user_namespace};
use super::Pids;

/// What lies where.
#[derive(Debug)]
pub struct Bundle {
    /// Where the root is mounted.
    pub rootfs: PathBuf,
    /// Where the pod's /dev/shm is mounted.
    pub shm: Option<PathBuf>,
    /// The image's volumes that are mounts.
    pub volumes: Vec<Volume>,
    /// Images that are mounted: their places in the spec's list, and where they are mounted on our side.
    pub images: Vec<(usize, PathBuf)>,
    /// Whose namespaces are joined.
    pub pids: Pids,
}

/// A volume of the image.
#[derive(Debug)]
pub struct Volume {
    /// Where it is mounted on our side.
    pub source: PathBuf,
    /// Where it belongs.
    pub target: PathBuf,
}

/// Annotation by which crun (crun(1)) leaves out the group that it makes below a scope of systemd's. It would write the
/// limits there as well, and an update of the scope's, which is what we change and read, would not reach them.
const CRUN_SUBGROUP: &str = "run.oci.systemd.subgroup";

/// Completes the launch's spec.
pub fn complete(launch: &mut Launch, bundle: &Bundle, runtime: &OciRuntime, user: &ResolvedUser) {
    let namespaces = namespaces(launch, bundle.pids);
    let mounts = mounts(launch, bundle);
    let spec = &mut launch.spec;
    spec.set_version(runtime.oci_version.clone());
    spec.set_mounts(Some(mounts));
    if let Some(root) = spec.root_mut() {
        root.set_path(bundle.rootfs.clone());
    }
    if let Some(process) = spec.process_mut() {
        set_user(process, user);
    }
    if runtime.systemd_cgroup {
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        annotations.insert(CRUN_SUBGROUP.to_owned(), String::new());
        spec.set_annotations(Some(annotations));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_namespaces(Some(namespaces));
        if !runtime.systemd_cgroup {
            // The group is there, with its limits: what is left is the list of devices, which every runtime writes.
            let mut resources = linux.resources().clone();
            if let Some(resources) = &mut resources {
                resources
                    .set_memory(None)
                    .set_cpu(None)
                    .set_pids(None)
                    .set_block_io(None)
                    .set_hugepage_limits(None)
                    .set_network(None)
                    .set_rdma(None)
                    .set_unified(None);
            }
            linux.set_resources(resources);
        }
    }
}

/// Writes the spec of our own start for hooks to read: with its root's path and its namespaces'.
pub fn write_for_hooks(launch: &Launch, bundle: &Path, rootfs: &Path, pids: &Pids) -> std::io::Result<()> {
    let mut spec = launch.spec.clone();
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.to_owned());
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_namespaces(Some(namespaces(launch, *pids)));
    }
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)
}

/// Those of the pod by its holder. Whoever had its pid afterwards is found out after the runtime's create: the holder's
/// descriptor says whether it lives.
fn namespaces(launch: &Launch, pids: Pids) -> Vec<LinuxNamespace> {
    let table = [
        (ns::NEWUSER, Kind::User, "user"),
        (ns::NEWNET, Kind::Network, "net"),
        (ns::NEWIPC, Kind::Ipc, "ipc"),
        (ns::NEWUTS, Kind::Uts, "uts"),
        (ns::NEWPID, Kind::Pid, "pid"),
        (ns::NEWCGROUP, Kind::Cgroup, "cgroup"),
        (ns::NEWNS, Kind::Mount, "mnt"),
    ];
    let one = |(flag, kind, name): (u64, Kind, &str)| {
        let path = |pid| Some(PathBuf::from(format!("/proc/{pid}/ns/{name}")));
        let path = match pids.target {
            Some(target) if flag == ns::NEWPID => path(target),
            // Ours has a copy of the holder's mounts; others have one of the host's.
            _ if flag == ns::NEWNS => None,
            _ if launch.join & flag != 0 => path(pids.holder),
            _ if launch.own & flag != 0 => None,
            _ => return None,
        };
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        Some(namespace)
    };
    table.into_iter().filter_map(one).collect()
}

fn mounts(launch: &Launch, bundle: &Bundle) -> Vec<Mount> {
    const SHM: &str = "/dev/shm";
    // The image's volumes first: mounts of the request may lie in them.
    let mut all: Vec<Mount> = bundle
        .volumes
        .iter()
        .map(|volume| bind(&volume.source, &volume.target, &["bind", "rprivate", "rw"]))
        .collect();
    let mut listed = launch.spec.mounts().clone().unwrap_or_default();
    for (place, source) in &bundle.images {
        if let Some(mount) = listed.get_mut(*place) {
            // Its layers are id-mapped already.
            let image = bind(source, mount.destination(), &["bind", "rprivate", "ro"]);
            *mount = image;
        }
    }
    all.append(&mut listed);
    let host_network = launch.join & ns::NEWNET == 0;
    if has_user_namespace(launch) && host_network {
        // sysfs shows a network namespace; one of the host's is not for a user namespace to mount (EPERM).
        for mount in all.iter_mut().filter(|mount| mount.typ().as_deref() == Some("sysfs")) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push("rbind".to_owned());
            mount.set_typ(Some("bind".to_owned())).set_source(Some("/sys".into())).set_options(Some(options));
        }
    }
    if let Some(shm) = &bundle.shm {
        let dev = all.iter().position(|mount| mount.destination() == Path::new("/dev"));
        let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"];
        all.insert(dev.map_or(0, |dev| dev + 1), bind(shm, Path::new(SHM), &options));
    }
    all
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_source(Some(source.into()))
        .set_destination(target.into())
        .set_typ(Some("bind".to_owned()))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

/// As it was found in the image; HOME goes with it, as in our own start.
fn set_user(process: &mut Process, user: &ResolvedUser) {
    process.user_mut().set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        let home = if user.home.is_empty() { "/" } else { &user.home };
        env.push(format!("HOME={home}"));
    }
    process.set_env(Some(env));
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
