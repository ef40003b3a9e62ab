//! Who a container's processes are, at its start and in an exec, and what its status says of it.

use std::fs;

use anyhow::{Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::BUSYBOX,
    specs::{container, pod},
    wait,
};
use serde_json::{Value, json};

const SCRIPT: &str = "echo $(id -u) $(id -g) $(id -G)";

/// Users and groups of the request, against the image's passwd (default-user is 1000:1000) and group (default-user is
/// in 50000 as well, and root in 10).
#[test]
fn who_a_container_runs_as() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "identity");
    let pod_id = scene.run_pod(&pod)?;
    let groups = json!([3000, 4000]);
    for (name, context, expected) in [
        ("nobody-asked", json!({}), "0 0 0 10"),
        ("root", json!({"run_as_user": {"value": 0}}), "0 0 0 10"),
        ("root-by-name", json!({"run_as_username": "root"}), "0 0 0 10"),
        ("strict-root", json!({"supplemental_groups_policy": 1}), "0 0 0"),
        ("number", json!({"run_as_user": {"value": 1000}}), "1000 1000 1000 50000"),
        ("stranger", json!({"run_as_user": {"value": 4242}}), "4242 0 0"),
        (
            "group",
            json!({"run_as_user": {"value": 1000}, "run_as_group": {"value": 2000}}),
            "1000 2000 2000 50000",
        ),
        ("name", json!({"run_as_username": "www-data"}), "33 33 33"),
        (
            "name-and-group",
            json!({"run_as_username": "www-data", "run_as_group": {"value": 2000}}),
            "33 2000 2000",
        ),
        (
            "merge",
            json!({"run_as_user": {"value": 1000}, "supplemental_groups": groups, "supplemental_groups_policy": 0}),
            "1000 1000 1000 3000 4000 50000",
        ),
        (
            "strict",
            json!({"run_as_user": {"value": 1000}, "supplemental_groups": groups, "supplemental_groups_policy": 1}),
            "1000 1000 1000 3000 4000",
        ),
    ] {
        let script = format!("{SCRIPT}; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done");
        let mut container = container(name, BUSYBOX, &["sh", "-c", &script]);
        merge(&mut container["linux"]["security_context"], context);
        let id = scene.start(&pod_id, &pod, &container)?;
        wait::until_true("the container's word", || {
            Ok(fs::read_to_string(scene.log(&pod, &container))?.ends_with('\n'))
        })?;
        let started = fs::read_to_string(scene.log(&pod, &container))?;
        ensure!(started.trim_end().ends_with(&format!(" F {expected}")), "{name}: {started}");
        let executed = scene.shell(&id, SCRIPT)?;
        ensure!(executed == expected, "{name}: exec as {executed}");
        let told = &scene.status(&id)?["user"]["linux"];
        ensure!(ids(told) == expected, "{name}: {told}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Files of a container belong to who it runs as, its own stdout too.
#[test]
fn files_and_stdio_are_the_user_s() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "files");
    let pod_id = scene.run_pod(&pod)?;
    let script = "umask; touch /tmp/mine; stat -c %u:%g /tmp/mine; echo again > /dev/stdout; echo $HOME";
    let mut container = container("main", BUSYBOX, &["sh", "-c", script]);
    container["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
    let id = scene.start(&pod_id, &pod, &container)?;
    scene.exited(&id)?;
    ensure!(scene.crictl.ok(&["logs", &id])? == "0022\n1000:1000\nagain\n/home");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Adds the fields of one object to another.
fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

/// `uid gid groups...` of a status, which leaves out zeros.
fn ids(user: &Value) -> String {
    let number = |value: &Value| value.as_str().unwrap_or("0").to_owned();
    let groups = user["supplementalGroups"].as_array().into_iter().flatten().map(number);
    [number(&user["uid"]), number(&user["gid"])].into_iter().chain(groups).collect::<Vec<_>>().join(" ")
}
