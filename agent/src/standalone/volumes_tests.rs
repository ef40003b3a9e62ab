use std::os::unix::{fs::MetadataExt, net::UnixListener};

use super::{HostPathKind as K, *};
use crate::manifest;

fn pod(spec: &str) -> Pod {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: main\n    image: a:1\n{spec}"
    );
    manifest::read(text.as_bytes()).unwrap()
}

fn place(root: &Path) -> Place {
    Place::make(root, "uid").unwrap()
}

#[test]
fn empty_dirs_are_for_everybody_and_a_group() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    let volumes = "  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}, {name: w, emptyDir: {}}]\n";
    prepare(&pod(volumes), &place).unwrap();
    assert_eq!(fs::metadata(place.volume("v")).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(limited(&pod(volumes), &place), [("v".to_owned(), place.volume("v"), 1 << 20)]);
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: the group of a directory: needs root");
        return;
    }
    fs::remove_dir(place.volume("v")).unwrap();
    fs::remove_dir(place.volume("w")).unwrap();
    prepare(&pod(&format!("{volumes}  securityContext: {{fsGroup: 2000}}\n")), &place).unwrap();
    let volume = fs::metadata(place.volume("v")).unwrap();
    assert_eq!((volume.mode() & 0o7777, volume.gid()), (0o2777, 2000));
}

#[test]
fn host_paths_are_what_their_type_says() {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let check =
        |path: &Path, kind| host_path("spec.volumes[0]", path, kind).map_err(|error| error.to_string());
    let there = [at("dir"), at("file"), at("socket"), "/dev/null".into()];
    for (kind, good) in [
        (K::Any, [true; 4]),
        (K::Directory, [true, false, false, false]),
        (K::DirectoryOrCreate, [true, false, false, false]),
        (K::File, [false, true, false, false]),
        (K::FileOrCreate, [false, true, false, false]),
        (K::Socket, [false, false, true, false]),
        (K::CharDevice, [false, false, false, true]),
        (K::BlockDevice, [false; 4]),
    ] {
        for (path, good) in there.iter().zip(good) {
            let checked = check(path, kind);
            assert_eq!(checked.is_ok(), good, "{kind:?} {path:?}: {checked:?}");
            assert!(good || checked.unwrap_err().starts_with("spec.volumes[0].hostPath.type: "));
        }
    }
    for kind in [K::Any, K::Directory, K::File, K::Socket, K::CharDevice, K::BlockDevice] {
        let error = check(&at("absent"), kind).unwrap_err();
        assert!(error.contains("is not there: make it, or write type: "), "{kind:?}: {error}");
    }
    check(&at("a/b"), K::DirectoryOrCreate).unwrap();
    check(&at("new"), K::FileOrCreate).unwrap();
    assert!(at("a/b").is_dir() && at("new").is_file());
    assert!(check(&at("x/new"), K::FileOrCreate).unwrap_err().contains("make"));
}

#[test]
fn a_containers_mounts() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    let pod = pod(
        "    volumeMounts:\n    - {name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}\n    \
         - {name: v, mountPath: /s, subPath: a/b}\n    - {name: h, mountPath: /h, mountPropagation: HostToContainer}\n    \
         - {name: i, mountPath: /i, subPath: etc}\n  \
         volumes: [{name: v, emptyDir: {}}, {name: h, hostPath: {path: /srv}}, {name: i, image: {reference: b:2}}]\n  \
         hostAliases: [{ip: 10.0.0.1, hostnames: [db]}]\n",
    );
    fs::create_dir(place.volume("v")).unwrap();
    let ids = [IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
    let mounts = mounts(&pod, &pod.containers[0], &place, 2, &ids, &Images::default()).unwrap();
    let targets: Vec<_> = mounts.list.iter().map(|mount| mount.container_path.as_str()).collect();
    assert_eq!(targets, ["/dev/termination-log", "/etc/hosts", "/v", "/s", "/h", "/i"]);
    let [message, hosts, volume, sub, host, image] = &mounts.list[..] else { panic!() };
    assert_eq!(message.host_path, place.dir().join("messages/main.2").display().to_string());
    assert_eq!(fs::metadata(&message.host_path).unwrap().mode() & 0o777, 0o666);
    assert!(!hosts.readonly && volume.readonly && volume.recursive_read_only);
    assert_eq!(volume.host_path, place.volume("v").display().to_string());
    assert_eq!(fs::canonicalize(&sub.host_path).unwrap(), place.volume("v").join("a/b"));
    assert_eq!(host.propagation, holdfast_model::MountPropagation::HostToContainer);
    assert_eq!((image.host_path.as_str(), image.image_sub_path.as_str(), image.readonly), ("", "etc", true));
    assert_eq!(image.image.as_ref().unwrap().user_specified_image, "b:2");
    assert!(mounts.list.iter().all(|mount| mount.uid_mappings == ids && mount.gid_mappings == ids));
}

#[test]
fn nothing_of_ours_is_made_in_a_volume() {
    let root = tempfile::tempdir().unwrap();
    let place = place(root.path());
    let pod = pod("    volumeMounts: [{name: d, mountPath: /dev}, {name: d, mountPath: /etc/hosts}]\n  \
         volumes: [{name: d, hostPath: {path: /dev}}]\n  hostAliases: [{ip: 10.0.0.1, hostnames: [db]}]\n");
    let mounts = mounts(&pod, &pod.containers[0], &place, 0, &[], &Images::default()).unwrap();
    let targets: Vec<_> = mounts.list.iter().map(|mount| mount.container_path.as_str()).collect();
    assert_eq!(targets, ["/dev", "/etc/hosts"]);
}
