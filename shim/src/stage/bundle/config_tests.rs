//! What a completed spec says.

use super::*;
use holdfast_pod::launch::{IdMap, Launch as Generic, Rootfs, UserRequest};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

fn launch(join: u64, own: u64) -> Launch {
    let spec: Result<Spec, _> = serde_json::from_value(json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["A=1"], "args": ["x"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        ],
        "linux": {
            "cgroupsPath": "/p/c",
            "resources": {"memory": {"limit": 1000}, "devices": [{"allow": false, "access": "rwm"}]},
        },
    }));
    Generic {
        spec: spec.expect("a spec"),
        rootfs: Rootfs::default(),
        volumes: Vec::new(),
        image_volumes: Vec::new(),
        relabel: Vec::new(),
        make_sources: Vec::new(),
        user: UserRequest::default(),
        join,
        own,
        pod_shm: true,
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        raw_env: Vec::new(),
        seccomp_flags: 0,
    }
}

fn bundle() -> Bundle {
    Bundle {
        rootfs: "/run/c/rootfs".into(),
        shm: Some("/run/c/shm".into()),
        volumes: vec![Volume { source: "/run/c/volume-0".into(), target: "/data".into() }],
        images: vec![(2, "/run/c/image-2".into())],
        pids: Pids { holder: 77, target: None },
    }
}

fn completed(mut launch: Launch, bundle: &Bundle, systemd_cgroup: bool) -> Value {
    let runtime = OciRuntime { oci_version: "1.1.0".into(), systemd_cgroup, ..OciRuntime::default() };
    let user = ResolvedUser { uid: 5, gid: 6, groups: vec![6, 7], home: "/home/x".into() };
    complete(&mut launch, bundle, &runtime, &user);
    json!(launch.spec)
}

#[test]
fn namespaces_of_the_pod_have_paths_and_its_own_have_none() {
    let join = ns::NEWNET | ns::NEWIPC | ns::NEWUTS;
    let own = ns::NEWNS | ns::NEWPID | ns::NEWCGROUP;
    let spec = completed(launch(join, own), &bundle(), false);
    assert_eq!(
        spec["linux"]["namespaces"],
        json!([
            {"type": "network", "path": "/proc/77/ns/net"},
            {"type": "ipc", "path": "/proc/77/ns/ipc"},
            {"type": "uts", "path": "/proc/77/ns/uts"},
            {"type": "pid"},
            {"type": "cgroup"},
            {"type": "mount"},
        ])
    );
    // The host's are in no list; a target's processes win over the pod's.
    let target = Bundle { pids: Pids { holder: 77, target: Some(99) }, ..bundle() };
    let spec = completed(launch(ns::NEWPID, ns::NEWNS), &target, false);
    assert_eq!(
        spec["linux"]["namespaces"],
        json!([{"type": "pid", "path": "/proc/99/ns/pid"}, {"type": "mount"}])
    );
}

#[test]
fn the_user_the_root_and_the_version_are_what_was_found() {
    let spec = completed(launch(ns::NEWNET, ns::NEWNS), &bundle(), false);
    assert_eq!(spec["ociVersion"], "1.1.0");
    assert_eq!(spec["root"], json!({"path": "/run/c/rootfs", "readonly": true}));
    assert_eq!(spec["process"]["user"], json!({"uid": 5, "gid": 6, "additionalGids": [6, 7]}));
    assert_eq!(spec["process"]["env"], json!(["A=1", "HOME=/home/x"]));
}

#[test]
fn limits_are_the_runtimes_only_where_it_makes_the_group() {
    let devices = json!([{"allow": false, "access": "rwm"}]);
    let ours = completed(launch(ns::NEWNET, ns::NEWNS), &bundle(), false);
    assert_eq!(ours["linux"]["resources"], json!({"devices": devices}));
    let systemd = completed(launch(ns::NEWNET, ns::NEWNS), &bundle(), true);
    assert_eq!(systemd["linux"]["resources"]["memory"]["limit"], 1000);
    // And in one group alone.
    assert_eq!(systemd["annotations"], json!({"run.oci.systemd.subgroup": ""}));
    assert!(ours["annotations"].is_null());
}

#[test]
fn volumes_come_first_and_shared_memory_after_dev() {
    let spec = completed(launch(ns::NEWNET, ns::NEWNS), &bundle(), false);
    let all = spec["mounts"].as_array().cloned().unwrap_or_default();
    let places: Vec<_> = all.iter().filter_map(|mount| mount["destination"].as_str()).collect();
    assert_eq!(places, ["/data", "/proc", "/dev", "/dev/shm", "/sys"]);
    assert_eq!(all[3]["source"], "/run/c/shm");
    assert_eq!((&all[4]["type"], &all[4]["source"]), (&json!("bind"), &json!("/run/c/image-2")));
}

#[test]
fn a_user_namespace_on_the_hosts_network_sees_the_hosts_sys() {
    let mut launch = launch(ns::NEWUSER, ns::NEWNS);
    launch.uid_map = vec![IdMap { inside: 0, outside: 65_536, count: 65_536 }];
    let spec = completed(launch, &Bundle { images: Vec::new(), ..bundle() }, false);
    let all = spec["mounts"].as_array().cloned().unwrap_or_default();
    let sys = all.iter().find(|mount| mount["destination"] == "/sys");
    assert_eq!(
        sys,
        Some(&json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["ro", "rbind"]}))
    );
}
