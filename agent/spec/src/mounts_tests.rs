//! Tests of the list of mounts.

use std::sync::Arc;

use holdfast_model::{ContainerConfig, IdMapping, Image, ImageSpec, Mount, NamespaceMode};
use oci_spec::runtime::LinuxIdMapping;

use super::*;
use crate::{build::tests::Case, namespaces};

fn mount(host: &str, container: &str) -> Mount {
    Mount { host_path: host.into(), container_path: container.into(), ..Mount::default() }
}

fn made(case: &Case) -> Result<Mounts, SpecError> {
    let inputs = case.inputs();
    let namespaces = namespaces::of_container(&case.container.security.namespaces, &case.pod, true).unwrap();
    mounts(&inputs, &namespaces)
}

fn with(mounts: &[Mount]) -> Case {
    Case {
        container: ContainerConfig { mounts: mounts.to_vec(), ..ContainerConfig::default() },
        ..Case::default()
    }
}

fn targets(mounts: &Mounts) -> Vec<String> {
    mounts.list.iter().map(|mount| mount.destination().display().to_string()).collect()
}

fn options(mounts: &Mounts, target: &str) -> Vec<String> {
    let mount = mounts.list.iter().find(|mount| mount.destination() == Path::new(target)).unwrap();
    mount.options().clone().unwrap()
}

#[test]
fn sources_of_the_request_are_made_and_no_others() {
    let mut case = with(&[mount("/data/new", "/data"), mount("/data/new", "/again")]);
    case.cdi.mounts.push(holdfast_model::CdiMount {
        host_path: "/usr/lib/driver.so".into(),
        container_path: "/usr/lib/driver.so".into(),
        ..Default::default()
    });
    let made = made(&case).unwrap();
    assert!(made.list.iter().any(|mount| mount.source().as_deref() == Some(Path::new("/usr/lib/driver.so"))));
    assert_eq!(made.make_sources, [Path::new("/data/new"), Path::new("/data/new")]);
}

#[test]
fn the_systems_come_first_and_deep_ones_last() {
    let made =
        made(&with(&[mount("/a", "/data/deep"), mount("/b", "/data"), mount("/c", "/z/../opt/")])).unwrap();
    let expected = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
        "/data",
        "/opt",
        "/data/deep",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
    ];
    assert_eq!(targets(&made), expected);
    assert!(made.pod_shm && made.root_propagation.is_none());
}

#[test]
fn a_request_takes_the_place_of_the_systems() {
    let made =
        made(&with(&[mount("/x", "/etc/hosts"), mount("/shm", "/dev/shm"), mount("/s", "/sys")])).unwrap();
    let source = |target: &str| {
        let found: Vec<_> = made.list.iter().filter(|m| m.destination() == Path::new(target)).collect();
        assert_eq!(found.len(), 1, "{target}");
        found[0].source().clone().unwrap()
    };
    assert_eq!(source("/etc/hosts"), Path::new("/x"));
    assert_eq!(source("/sys"), Path::new("/s"));
    assert!(!made.pod_shm);

    let made = self::made(&with(&[mount("/dev", "/dev")])).unwrap();
    assert!(!targets(&made).iter().any(|target| target.starts_with("/dev/")));
    assert!(!made.pod_shm, "the host's /dev has its own");
}

#[test]
fn what_can_be_written_to() {
    let mut case = with(&[
        Mount { readonly: true, ..mount("/r", "/r") },
        Mount { readonly: true, recursive_read_only: true, ..mount("/rr", "/rr") },
        Mount { propagation: MountPropagation::HostToContainer, ..mount("/s", "/s") },
        Mount { mount_options: vec!["noexec".into()], ..mount("/x", "/x") },
    ]);
    case.container.security.readonly_rootfs = true;
    let made = made(&case).unwrap();
    assert_eq!(options(&made, "/r"), ["rbind", "rprivate", "ro"]);
    assert_eq!(options(&made, "/rr"), ["rbind", "rprivate", "rro"]);
    assert_eq!(options(&made, "/s"), ["rbind", "rslave", "rw"]);
    assert_eq!(options(&made, "/x"), ["rbind", "rprivate", "rw", "noexec"]);
    assert!(options(&made, "/etc/hosts").contains(&"ro".to_owned()));
    assert!(options(&made, "/sys").contains(&"ro".to_owned()));
    assert_eq!(made.root_propagation, Some("rslave"));

    case.container.security.privileged = true;
    assert!(options(&self::made(&case).unwrap(), "/sys/fs/cgroup").contains(&"rw".to_owned()));
}

#[test]
fn the_hosts_ipc_brings_the_hosts_shm() {
    let mut case = Case::default();
    case.pod.security.namespaces.ipc = NamespaceMode::Node;
    case.container.security.namespaces.ipc = NamespaceMode::Node;
    let made = made(&case).unwrap();
    assert!(!made.pod_shm && targets(&made).contains(&"/dev/shm".to_owned()));
}

#[test]
fn volumes_of_the_image() {
    let mut case = with(&[mount("/h", "/taken"), mount("/h", "/above")]);
    let volumes = ["/data/../data/", "/data", "/taken", "/above/deep", "/proc/x", "/dev", "/var/lib"];
    case.image.config.volumes = volumes.map(str::to_owned).to_vec();
    assert_eq!(made(&case).unwrap().volumes, ["/data", "/var/lib"].map(PathBuf::from));
    case.image.config.volumes = vec!["/..".into()];
    assert!(made(&case).unwrap_err().to_string().contains("Volumes[0]"));
}

#[test]
fn id_maps_of_a_volume_and_of_the_pods_files() {
    let map = |host_id| vec![IdMapping { host_id, container_id: 0, length: 65_536 }];
    let mut case = with(&[
        Mount { uid_mappings: map(1 << 16), gid_mappings: map(1 << 17), ..mount("/v", "/v") },
        mount("/p", "/p"),
    ]);
    let user = crate::namespaces::tests::user_of(
        NamespaceMode::Pod,
        &[(0, 1 << 16, 1 << 16)],
        &[(0, 1 << 16, 1 << 16)],
    );
    case.pod.security.namespaces.user = Some(user.clone());
    case.container.security.namespaces.user = Some(user);
    let made = made(&case).unwrap();
    let maps = |target: &str| {
        let mount = made.list.iter().find(|mount| mount.destination() == Path::new(target)).unwrap();
        mount.gid_mappings().clone().unwrap_or_default().first().map(LinuxIdMapping::host_id)
    };
    assert_eq!((maps("/v"), maps("/p"), maps("/etc/hosts")), (Some(1 << 17), None, Some(1 << 16)));
}

fn of_image(name: &str, sub_path: &str) -> Mount {
    Mount {
        image: Some(ImageSpec { image: name.into(), ..ImageSpec::default() }),
        image_sub_path: sub_path.into(),
        ..mount("", "/i")
    }
}

fn with_image(mount: Mount) -> Case {
    let image = Image {
        id: "sha256:1".into(),
        layers: ["/lower", "/up:per"].map(PathBuf::from).to_vec(),
        ..Image::default()
    };
    Case { volume_images: vec![Some(Arc::new(image))], ..with(&[mount]) }
}

#[test]
fn an_image_is_read_only_whatever_the_request_says() {
    let asked = Mount {
        propagation: MountPropagation::Bidirectional,
        mount_options: vec!["noexec".into()],
        ..of_image("data:1", "./etc//ssl/")
    };
    let made = made(&with_image(asked)).unwrap();
    let [volume] = made.image_volumes.as_slice() else { panic!("{made:?}") };
    assert_eq!((volume.image.as_str(), volume.sub_path.as_path()), ("data:1", Path::new("etc/ssl")));
    assert_eq!(volume.layers, ["/lower", "/up:per"].map(PathBuf::from));
    let mount = &made.list[volume.mount];
    assert_eq!(mount.destination(), Path::new("/i"));
    assert_eq!(mount.typ().as_deref(), Some("overlay"));
    assert_eq!(mount.source().as_deref(), Some(Path::new("sha256:1")));
    assert_eq!(options(&made, "/i"), ["ro", "rprivate", "noexec", "lowerdir=/up\\:per:/lower"]);
    assert_eq!(made.root_propagation, None, "nothing of the host shows in it");
}

#[test]
fn an_image_is_told_apart_from_the_mounts_around_it() {
    let mut case = with(&[mount("/x", "/x/deep"), of_image("a", ""), mount("/y", "/y")]);
    case.volume_images =
        vec![None, Some(Arc::new(Image { layers: vec!["/l".into()], ..Image::default() })), None];
    let made = made(&case).unwrap();
    let [volume] = made.image_volumes.as_slice() else { panic!("{made:?}") };
    assert_eq!(made.list[volume.mount].destination(), Path::new("/i"));
    assert!(volume.sub_path.as_os_str().is_empty());
}

#[test]
fn sub_paths_and_mappings_of_images_that_are_refused() {
    let half = IdMapping { host_id: 1, container_id: 0, length: 1 };
    for (asked, part) in [
        (of_image("a", "/etc"), "mounts[0].image_sub_path: \"/etc\" is absolute"),
        (of_image("a", "etc/../.."), "mounts[0].image_sub_path: \"etc/../..\" holds .."),
        (of_image("a", ".."), "holds .."),
        (of_image("a", "a\nb"), "control character"),
        (of_image("a", &"a/".repeat(2500)), "a path has at most"),
        (Mount { uid_mappings: vec![half], ..of_image("a", "") }, "uids or gids alone"),
        (Mount { mount_options: vec!["rw".into()], ..of_image("a", "") }, "mount_options"),
        (Mount { recursive_read_only: true, ..of_image("a", "") }, "recursive_read_only"),
        (Mount { container_path: "/proc".into(), ..of_image("a", "") }, "/proc cannot be covered"),
    ] {
        let error = made(&with_image(asked)).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let missing = made(&with(&[of_image("a:1", "")])).unwrap_err();
    assert_eq!(missing.kind(), crate::ErrorKind::NotFound);
    assert_eq!(missing.to_string(), "mounts[0].image: image \"a:1\" not found: pull it first");
}

#[test]
fn what_is_refused() {
    let half = Mount {
        uid_mappings: vec![IdMapping { host_id: 1, container_id: 0, length: 1 }],
        ..mount("/v", "/v")
    };
    for (mount, part) in [
        (mount("/x", "relative"), "mounts[0].container_path"),
        (mount("relative", "/x"), "mounts[0].host_path"),
        (mount("/x", "/"), "the root"),
        (mount("/x", "/a/.."), "the root"),
        (mount("/x", "/proc"), "/proc cannot be covered"),
        (mount("/x", "/proc/self/attr"), "/proc cannot be covered"),
        (mount("/x", "/a/../proc/sys"), "/proc cannot be covered"),
        (mount("/x\n", "/x"), "control"),
        (Mount { image_sub_path: "x".into(), ..mount("/x", "/x") }, "image_sub_path: is set without image"),
        (half, "uids or gids alone"),
        (Mount { recursive_read_only: true, ..mount("/x", "/x") }, "recursive_read_only"),
        (
            Mount {
                readonly: true,
                recursive_read_only: true,
                propagation: MountPropagation::Bidirectional,
                ..mount("/x", "/x")
            },
            "recursive_read_only",
        ),
        (Mount { mount_options: vec!["suid".into()], ..mount("/x", "/x") }, "mount_options"),
    ] {
        let error = made(&with(&[mount])).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert!(made(&with(&[mount("/proc", "/proc")])).is_ok(), "the host's own");
    assert!(made(&with(&[mount("/lxcfs/meminfo", "/proc/meminfo")])).is_ok());
}

#[test]
fn what_is_relabelled_where_the_node_has_labels() {
    let labelled = |path: &str| Mount { selinux_relabel: true, ..mount(path, "/v") };
    let mut case = with(&[labelled("/srv/data"), mount("/srv/other", "/o")]);
    let sources = |case: &Case| made(case).map(|made| made.relabel);
    let own = |case: &Case| sources(case).unwrap().iter().filter(|path| path.starts_with("/srv")).count();
    assert_eq!(own(&case), 0);
    case.host.selinux = Some(crate::selinux::Contexts::default());
    assert_eq!(own(&case), 1);
    assert!(sources(&case).unwrap().contains(&PathBuf::from("/srv/data")));
    case.container.mounts = vec![labelled("/usr/")];
    let refused = sources(&case).unwrap_err().to_string();
    assert!(refused.contains("mounts[0].selinux_relabel") && refused.contains("/usr/"), "{refused}");
}
