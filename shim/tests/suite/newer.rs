//! An agent of a newer version, and launches of all versions.

use holdfast_formats::Format;
use holdfast_pod::channel;
use holdfast_pod::launch::{ExecLaunch, IdMap, ImageVolume, Launch, Rootfs, UserRequest};
use holdfast_pod::protocol::{Answer, Exec, FaultKind, Request, VERSION};
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use crate::harness::Shim;
use crate::scene::{Scene, process};

/// An unknown request is refused, and neither the container nor an exec that runs notices.
#[test]
fn a_request_of_a_newer_agent_is_refused_and_ends_nothing() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    let exec = Exec { kill_on_disconnect: true, ..Exec::default() };
    let answer = shim.exec(1, &process(&["sleep", "1000"]), &exec, &[]);
    assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
    for (seq, request) in
        [(901, json!({"freeze": {"for_ms": 5}})), (902, json!("thaw")), (903, json!({"exec": 7}))]
    {
        let call = json!({"seq": seq, "request": request, "fds": []});
        channel::send(&shim.agent.channel, &call, &[]).unwrap();
        let Answer::Failed(failure) = shim.agent.answer(seq) else { panic!("{call} is not refused") };
        assert_eq!(failure.kind, FaultKind::Precondition, "{failure}");
        assert!(failure.text.contains("another version"), "{failure}");
    }
    let Answer::State(state) = shim.agent.call(Request::State) else { panic!("no state") };
    assert_eq!(state.version, VERSION);
    shim.agent.ok(Request::KillExec { exec_id: 1 });
    assert_eq!(shim.agent.exec_exited(1), (137, false), "it had ended before");
    shim.agent.ok(Request::Kill);
    assert_eq!(shim.agent.exited().exit_code, 137);
    shim.gone(&scene);
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn stored_format_of_launches() {
    let map = vec![IdMap { inside: 0, outside: 1_000_000, count: 65_536 }];
    let launch: Launch<Spec> = Launch {
        spec: of(holdfast_formats::oci_spec()),
        rootfs: Rootfs {
            layers: vec!["/var/lib/holdfast/images/layers/1/fs".into()],
            upper: "/var/lib/holdfast/containers/c1/upper".into(),
            work: "/var/lib/holdfast/containers/c1/work".into(),
        },
        volumes: vec!["/cache".into()],
        image_volumes: vec![ImageVolume {
            mount: 1,
            image: "registry.example/data:1".into(),
            layers: vec!["/var/lib/holdfast/images/layers/2/fs".into()],
            sub_path: "models".into(),
        }],
        user: UserRequest {
            user: "web".into(),
            group: Some(1000),
            supplemental_groups: vec![5],
            strict_groups: true,
        },
        join: 0x4c00_0000,
        own: 0x2202_0000,
        pod_shm: true,
        uid_map: map.clone(),
        gid_map: map,
        raw_env: vec![vec![65, 61, 255]],
        relabel: vec!["/srv/data".into()],
        make_sources: vec!["/srv/data".into()],
        seccomp_flags: 2,
    };
    Format { name: "launch", version: VERSION }.check(&[("whole", launch)]);
    let process: Process = of(holdfast_formats::oci_spec()["process"].clone());
    let exec = ExecLaunch { process, raw_env: vec![vec![65, 61, 255]], seccomp_flags: 2 };
    Format { name: "exec", version: VERSION }.check(&[("whole", exec)]);
}
