//! Tests of what CDI devices change in a spec.

use holdfast_model::{ContainerConfig, DeviceKind, DeviceRule, Mount, NamespaceMode};
use serde_json::json;

use super::*;
use crate::{
    Built, ErrorKind,
    build::{build, tests::Case},
    namespaces::tests::user_of,
};

fn edits(text: serde_json::Value) -> ContainerEdits {
    serde_json::from_value(text).unwrap()
}

fn case(text: serde_json::Value) -> Case {
    Case { cdi: edits(text), ..Case::default() }
}

fn built(case: &Case) -> (Value, Built) {
    let built = build(&case.inputs()).unwrap();
    (json!(built.launch.spec), built)
}

fn mount<'a>(spec: &'a Value, target: &str) -> Vec<&'a Value> {
    spec["mounts"].as_array().unwrap().iter().filter(|mount| mount["destination"] == target).collect()
}

#[test]
fn all_kinds_of_edits() {
    let mut case = case(json!({
        "env": ["GPU=0"],
        "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw", "gid": 44}],
        "mounts": [
            {"hostPath": "/usr/lib/gpu.so", "containerPath": "/usr/lib/gpu.so", "options": ["ro", "rbind", "rslave"]},
            {"hostPath": "tmpfs", "containerPath": "/scratch", "type": "tmpfs", "options": ["size=1m"]},
        ],
        "hooks": [
            {"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "-x"], "timeout": 5},
            {"hookName": "createContainer", "path": "/bin/other", "env": ["A=b"]},
            {"hookName": "poststop", "path": "/bin/last"},
        ],
        "additionalGids": [44, 0, 44],
    }));
    case.container.security.run_as_user = Some(1000);
    case.container.security.run_as_group = Some(2000);
    case.container.security.supplemental_groups = vec![3000];
    let (spec, built) = built(&case);
    assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("GPU=0")));
    assert_eq!(
        spec["linux"]["devices"],
        json!([{"path": "/dev/gpu0", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 1000, "gid": 44}])
    );
    let rule = built.devices.last().unwrap();
    assert_eq!((rule.kind, rule.major, rule.minor), (DeviceKind::Char, Some(1), Some(3)));
    assert_eq!((rule.read, rule.write, rule.mknod), (true, true, false));
    let library = mount(&spec, "/usr/lib/gpu.so")[0];
    assert_eq!((&library["type"], &library["source"]), (&json!("bind"), &json!("/usr/lib/gpu.so")));
    assert_eq!(library["options"], json!(["ro", "rbind", "rslave"]));
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
    let scratch = mount(&spec, "/scratch")[0];
    assert_eq!((&scratch["type"], &scratch["options"]), (&json!("tmpfs"), &json!(["size=1m"])));
    let hooks = &spec["hooks"];
    assert_eq!(
        hooks["createContainer"],
        json!([{"path": "/bin/hook", "args": ["hook", "-x"], "timeout": 5}, {"path": "/bin/other", "env": ["A=b"]}])
    );
    assert_eq!(hooks["poststop"], json!([{"path": "/bin/last"}]));
    assert_eq!(built.launch.user.supplemental_groups, [3000, 44]);
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([3000, 44]));
}

#[test]
fn no_edits_change_nothing() {
    let (spec, built) = built(&Case::default());
    assert_eq!((&spec["hooks"], &spec["linux"]["devices"]), (&Value::Null, &Value::Null));
    assert_eq!(built.devices, DeviceRule::defaults());
}

#[test]
fn a_mount_takes_the_place_of_another_and_keeps_the_order() {
    let mut case = case(json!({"mounts": [
        {"hostPath": "/new", "containerPath": "/data/"},
        {"hostPath": "/hosts", "containerPath": "/etc/hosts", "type": "none", "options": ["rbind"]},
    ]}));
    let own = |host: &str, container: &str| Mount {
        host_path: host.into(),
        container_path: container.into(),
        ..Mount::default()
    };
    case.container =
        ContainerConfig { mounts: vec![own("/deep", "/data/deep"), own("/old", "/data")], ..case.container };
    let (spec, _) = built(&case);
    let data = mount(&spec, "/data");
    assert_eq!((data.len(), &data[0]["source"]), (1, &json!("/new")));
    assert_eq!(data[0]["options"], json!(["bind"]));
    assert_eq!(mount(&spec, "/etc/hosts")[0]["source"], "/hosts");
    let targets: Vec<_> =
        spec["mounts"].as_array().unwrap().iter().map(|mount| &mount["destination"]).collect();
    let place = |target: &str| targets.iter().position(|other| **other == target).unwrap();
    assert!(place("/data") < place("/data/deep"));
}

#[test]
fn in_a_user_namespace_bind_mounts_are_mapped() {
    let mut case = case(json!({"mounts": [
        {"hostPath": "/a", "containerPath": "/a", "options": ["rbind"]},
        {"hostPath": "/b", "containerPath": "/b"},
        {"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs"},
    ]}));
    let user = user_of(NamespaceMode::Pod, &[(0, 1 << 16, 1 << 16)], &[(0, 1 << 16, 1 << 16)]);
    case.pod.security.namespaces.user = Some(user.clone());
    case.container.security.namespaces.user = Some(user);
    let (spec, _) = built(&case);
    assert_eq!(mount(&spec, "/a")[0]["options"], json!(["rbind", "ridmap"]));
    assert_eq!(mount(&spec, "/b")[0]["options"], json!(["bind", "idmap"]));
    assert_eq!(mount(&spec, "/a")[0]["uidMappings"][0]["hostID"], 1 << 16);
    assert_eq!(mount(&spec, "/t")[0]["uidMappings"], Value::Null);
}

#[test]
fn what_a_node_does_not_say_is_the_hosts() {
    let node = |text: Value| device(&serde_json::from_value(text).unwrap(), (7, 8), "f");
    let found = node(json!({"path": "/dev/null"})).unwrap();
    assert_eq!((found.typ(), found.major(), found.minor()), (LinuxDeviceType::C, 1, 3));
    assert_eq!((found.uid(), found.gid(), found.file_mode()), (Some(7), Some(8), Some(0o666)));
    // One that says enough need not be there, and is not compared.
    let absent =
        node(json!({"path": "/dev/x", "type": "b", "major": 9, "minor": 1, "fileMode": 0o600, "uid": 0}));
    let absent = absent.unwrap();
    assert_eq!((absent.typ(), absent.major(), absent.minor()), (LinuxDeviceType::B, 9, 1));
    assert_eq!((absent.uid(), absent.gid(), absent.file_mode()), (Some(0), Some(8), Some(0o600)));
    let pipe = node(json!({"path": "/run/pipe", "type": "p"})).unwrap();
    assert_eq!((pipe.typ(), pipe.file_mode()), (LinuxDeviceType::P, None));
    let unbuffered = node(json!({"path": "/dev/zero", "type": "u"})).unwrap();
    assert_eq!((unbuffered.typ(), unbuffered.minor()), (LinuxDeviceType::U, 5));
}

#[test]
fn permissions_of_nodes() {
    for (asked, rules) in [("", Some("rwm")), ("r", Some("r")), ("mw", Some("wm")), ("none", None)] {
        let (_, built) = built(&case(json!({"deviceNodes": [{"path": "/dev/full", "permissions": asked}]})));
        let of_full = |rule: &&DeviceRule| rule.minor == Some(7);
        let added: Vec<_> =
            built.devices.iter().filter(of_full).skip(1).map(DeviceRule::permissions).collect();
        assert_eq!(added, rules.into_iter().collect::<Vec<_>>(), "{asked}");
    }
    let mut case = case(json!({"deviceNodes": [{"path": "/dev/full"}]}));
    case.pod.security.privileged = true;
    case.container.security.privileged = true;
    assert_eq!(built(&case).1.devices, [DeviceRule::ALL], "it may use all anyway");
}

#[test]
fn what_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, kind, part) in [
        (json!({"intelRdt": {"closID": "a"}}), ErrorKind::Precondition, "intelRdt"),
        (
            json!({"netDevices": [{"hostInterfaceName": "eth9", "name": "eth9"}]}),
            ErrorKind::Precondition,
            "netDevices",
        ),
        (json!({"deviceNodes": [{"path": "/dev/no-such"}]}), ErrorKind::NotFound, "/dev/no-such"),
        (
            json!({"deviceNodes": [{"path": "/dev/x", "hostPath": file.path()}]}),
            ErrorKind::InvalidArgument,
            "no device node",
        ),
        (
            json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}),
            ErrorKind::InvalidArgument,
            "of another type",
        ),
        (
            json!({"mounts": [{"hostPath": "/x", "containerPath": "/proc/sys"}]}),
            ErrorKind::InvalidArgument,
            "/proc cannot be covered",
        ),
        (
            json!({"mounts": [{"hostPath": "x", "containerPath": "/x"}]}),
            ErrorKind::InvalidArgument,
            "CDI mount /x",
        ),
    ] {
        let error = build(&case(text).inputs()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}
