//! The seven namespaces, as lsns shows them, compared between the host, the pod's holder and a container.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{self, PID_POD, pod, sleeper, with_user_namespace},
};
use serde_json::Value;

const KINDS: [&str; 7] = ["mnt", "pid", "net", "user", "uts", "ipc", "cgroup"];

type Namespaces = BTreeMap<String, u64>;

#[test]
fn without_a_user_namespace() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "plain");
    let (pod_id, holder, container) = start(&scene, &pod)?;
    let host = namespaces("self")?;
    same(&holder, &container, &["net", "ipc", "uts"])?;
    differ(&holder, &container, &["mnt", "pid"])?;
    differ(&host, &container, &["mnt", "pid", "net", "uts", "ipc"])?;
    // Not where there is cgroup v1 (KEP-2254).
    if unified() {
        differ(&host, &container, &["cgroup"])?;
        differ(&holder, &container, &["cgroup"])?;
    } else {
        same(&host, &container, &["cgroup"])?;
    }
    same(&host, &container, &["user"])?;
    differ(&host, &holder, &["net", "ipc", "uts", "mnt"])?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn with_a_user_namespace() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "mapped");
    with_user_namespace(&mut pod, 1_310_720);
    let (pod_id, holder, container) = start(&scene, &pod)?;
    let host = namespaces("self")?;
    same(&holder, &container, &["net", "ipc", "uts", "user"])?;
    let kinds = if unified() { &KINDS[..] } else { &KINDS[..6] };
    differ(&host, &container, kinds)?;
    differ(&holder, &container, &["mnt", "pid"])?;

    // Files of the image belong to the container's root, though the host's ids are others.
    let id = only_container(&scene, &pod_id)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    let map = shell("cat /proc/self/uid_map")?;
    ensure!(map.split_whitespace().collect::<Vec<_>>() == ["0", "1310720", "65536"], "{map}");
    ensure!(shell("id -u; stat -c %u /bin/busybox; touch /made && stat -c %u /made")? == "0\n0\n0");
    let pid = pid_of(&scene.crictl.json(&["inspect", &id])?)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("Uid:\t1310720"), "{status}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// /dev/shm is the pod's: its containers share it, and nobody else sees it.
#[test]
fn shared_memory_is_the_pods() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (one, other) = (pod(&scene.dir, "one"), pod(&scene.dir, "other"));
    let (one_id, other_id) = (scene.run_pod(&one)?, scene.run_pod(&other)?);
    let writer = scene.start(&one_id, &one, &sleeper("writer", BUSYBOX))?;
    let reader = scene.start(&one_id, &one, &sleeper("reader", BUSYBOX))?;
    let stranger = scene.start(&other_id, &other, &sleeper("stranger", BUSYBOX))?;
    let name = format!("holdfast-e2e-{}-{}", std::process::id(), specs::unique());
    let exec = |id: &str, script: &str| scene.crictl.ok(&["exec", "-s", id, "sh", "-c", script]);
    exec(&writer, &format!("echo ours > /dev/shm/{name}"))?;
    ensure!(exec(&reader, &format!("cat /dev/shm/{name}"))? == "ours");
    ensure!(exec(&stranger, "ls /dev/shm")?.is_empty(), "another pod sees it");
    ensure!(!std::path::Path::new("/dev/shm").join(&name).exists(), "it is the host's");
    scene.remove_pod(&one_id)?;
    scene.remove_pod(&other_id)?;
    oracle.nothing_left()
}

/// In POD mode the containers share a pid namespace, whose first process is the holder, and it reaps.
#[test]
fn a_shared_pid_namespace() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "shared");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
        ids.push(scene.start(&pod_id, &pod, &container)?);
    }
    let holder = namespaces(&pid_of(&scene.crictl.json(&["inspectp", &pod_id])?)?.to_string())?;
    for id in &ids {
        let container = namespaces(&pid_of(&scene.crictl.json(&["inspect", id])?)?.to_string())?;
        same(&holder, &container, &["pid", "net", "ipc", "uts"])?;
    }
    let listed = scene.crictl.ok(&["exec", "-s", &ids[0], "ps", "-o", "pid,args"])?;
    ensure!(
        listed.lines().filter(|line| line.contains("trap")).count() >= 2,
        "not both containers in\n{listed}"
    );
    // An orphan goes to the namespace's first process, which reaps it.
    scene.crictl.ok(&["exec", "-s", &ids[0], "sh", "-c", "(sh -c 'sleep 0.1' & ) ; true"])?;
    holdfast_e2e::wait::until_true("the orphan to be reaped", || {
        let listed = scene.crictl.ok(&["exec", "-s", &ids[1], "ps", "-o", "stat,args"])?;
        Ok(!listed.lines().any(|line| line.starts_with('Z') || line.contains("sleep 0.1")))
    })?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A pod on the host's network keeps the host's net and uts namespaces, and has no address of its own.
#[test]
fn the_host_s_network() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "host");
    pod.as_object_mut().context("pod")?.remove("hostname");
    pod["linux"]["security_context"]["namespace_options"]["network"] = specs::NODE.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["namespace_options"]["network"] = specs::NODE.into();
    let id = scene.start(&pod_id, &pod, &container)?;
    let inside = namespaces(&pid_of(&scene.crictl.json(&["inspect", &id])?)?.to_string())?;
    same(&namespaces("thread-self")?, &inside, &["net", "uts"])?;
    differ(&namespaces("thread-self")?, &inside, &["mnt", "pid", "ipc"])?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// NODE for processes and IPC: a container sees the host's, and the host's network stays out of it.
#[test]
fn the_host_s_processes_and_ipc() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "host-pid-ipc");
    let options = serde_json::json!({"pid": specs::NODE, "ipc": specs::NODE});
    pod["linux"]["security_context"]["namespace_options"] = options.clone();
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["namespace_options"] = options;
    let id = scene.start(&pod_id, &pod, &container)?;
    let inside = namespaces(&pid_of(&scene.crictl.json(&["inspect", &id])?)?.to_string())?;
    same(&namespaces("thread-self")?, &inside, &["pid", "ipc"])?;
    differ(&namespaces("thread-self")?, &inside, &["mnt", "net", "uts"])?;
    let own = std::process::id().to_string();
    ensure!(
        scene.shell(&id, &format!("cat /proc/{own}/comm"))? == fs::read_to_string("/proc/self/comm")?.trim()
    );
    let told = &scene.crictl.json(&["inspectp", &pod_id])?["status"]["linux"]["namespaces"]["options"];
    ensure!(told["pid"] == "NODE" && told["ipc"] == "NODE" && told["network"] == "POD", "{told}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// TARGET: a container for debugging joins the processes of another one, by its id.
#[test]
fn the_processes_of_a_target() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "target");
    let pod_id = scene.run_pod(&pod)?;
    let target = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let mut container = sleeper("debugger", BUSYBOX);
    let options = &mut container["linux"]["security_context"]["namespace_options"];
    (options["pid"], options["target_id"]) = (specs::PID_TARGET.into(), target.clone().into());
    let id = scene.start(&pod_id, &pod, &container)?;
    let of = |id: &str| -> Result<Namespaces> {
        namespaces(&pid_of(&scene.crictl.json(&["inspect", id])?)?.to_string())
    };
    same(&of(&target)?, &of(&id)?, &["pid", "net", "ipc", "uts"])?;
    differ(&of(&target)?, &of(&id)?, &["mnt"])?;
    let seen = scene.shell(&id, "test -e /proc/1/status && ps -o args")?;
    ensure!(seen.lines().filter(|line| line.contains("trap")).count() >= 2, "not both containers in\n{seen}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A privileged container sees the node's cgroups, as agents that look after a node want it; another one its own alone.
#[test]
fn cgroups_are_the_node_s_for_privileged_containers() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "privileged");
    pod["linux"]["security_context"]["privileged"] = true.into();
    let pod_id = scene.run_pod(&pod)?;
    for (name, privileged) in [("with", true), ("without", false)] {
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["security_context"]["privileged"] = privileged.into();
        container["linux"]["resources"] = serde_json::json!({"memory_limit_in_bytes": 64 << 20});
        let id = scene.start(&pod_id, &pod, &container)?;
        let pid = pid_of(&scene.crictl.json(&["inspect", &id])?)?;
        let ours = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let shown = scene.shell(&id, "cat /proc/1/cgroup")?;
        let limit = |file: &str| format!("test $(cat /sys/fs/cgroup/{file}) = {}", 64 << 20);
        let hidden = unified() && !privileged;
        ensure!(shown == if hidden { "0::/" } else { ours.trim() }, "{name}: {shown} is not {ours}");
        let script = if !unified() {
            // Without a cgroup namespace either way, but its own groups alone are mounted.
            limit("memory/memory.limit_in_bytes")
        } else if privileged {
            let path = ours.trim().strip_prefix("0::/").context("no cgroup v2")?;
            // What only the root has not.
            format!("{} && test ! -e /sys/fs/cgroup/memory.max", limit(&format!("{path}/memory.max")))
        } else {
            limit("memory.max")
        };
        scene.shell(&id, &script).with_context(|| format!("{name}: {script}"))?;
        let writable =
            scene.shell(&id, "awk '$5 ~ \"^/sys/fs/cgroup\" { print $6 }' /proc/self/mountinfo")?;
        let mode = if privileged { "rw" } else { "ro" };
        let right = |line: &str| line.split(',').next() == Some(mode);
        ensure!(!writable.is_empty() && writable.lines().all(right), "{name}: {writable}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Whether cgroup v2 is all that this host has.
fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What a container did to its mounts and its holder's is gone with it, while the pod goes on.
#[test]
fn a_removed_container_leaves_its_pod_as_it_was() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    scene.oracle()?;
    let pod = pod(&scene.dir, "stays");
    let pod_id = scene.run_pod(&pod)?;
    let oracle = holdfast_e2e::Oracle::look(scene.scope())?;
    for _ in 0..3 {
        let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
        scene.crictl.ok(&["stop", &id])?;
        scene.crictl.ok(&["rm", &id])?;
    }
    fs::remove_dir_all(pod["log_directory"].as_str().context("logs")?)?;
    oracle.nothing_left()?;
    scene.remove_pod(&pod_id)
}

/// Starts a pod with one container; returns the pod's id, and the namespaces of its holder and its container.
fn start(scene: &Scene, pod: &Value) -> Result<(String, Namespaces, Namespaces)> {
    let pod_id = scene.run_pod(pod)?;
    let id = scene.start(&pod_id, pod, &sleeper("main", BUSYBOX))?;
    let holder = pid_of(&scene.crictl.json(&["inspectp", &pod_id])?)?;
    let container = pid_of(&scene.crictl.json(&["inspect", &id])?)?;
    lsns_agrees(container)?;
    Ok((pod_id, namespaces(&holder.to_string())?, namespaces(&container.to_string())?))
}

fn only_container(scene: &Scene, pod_id: &str) -> Result<String> {
    Ok(scene.crictl.ok(&["ps", "-q", "--no-trunc", "--pod", pod_id])?.trim().to_owned())
}

/// `pid` of a verbose status.
fn pid_of(status: &Value) -> Result<u64> {
    status["info"]["pid"]
        .as_u64()
        .filter(|pid| *pid > 1)
        .with_context(|| format!("no pid in {}", status["info"]))
}

fn namespaces(pid: &str) -> Result<Namespaces> {
    let mut found = Namespaces::new();
    for kind in KINDS {
        let link =
            fs::read_link(format!("/proc/{pid}/ns/{kind}")).with_context(|| format!("{kind} of {pid}"))?;
        let text = link.to_string_lossy().into_owned();
        let number = text.split(['[', ']']).nth(1).and_then(|number| number.parse().ok());
        found.insert(kind.to_owned(), number.with_context(|| format!("no number in {text}"))?);
    }
    Ok(found)
}

/// lsns(8) shows the same seven for a process.
fn lsns_agrees(pid: u64) -> Result<()> {
    let text = process::stdout("lsns", ["-J", "-o", "TYPE,NS", "-p", &pid.to_string()])?;
    let listed: Value = serde_json::from_str(&text).context("parse the output of lsns")?;
    let own = namespaces(&pid.to_string())?;
    for kind in KINDS {
        let rows = listed["namespaces"].as_array().into_iter().flatten();
        let row =
            rows.clone().find(|row| row["type"] == kind).with_context(|| format!("no {kind} in {text}"))?;
        let number = row["ns"].as_u64().or_else(|| row["ns"].as_str()?.parse().ok());
        ensure!(number == own.get(kind).copied(), "{kind}: {row} is not {own:?}");
    }
    Ok(())
}

fn same(a: &Namespaces, b: &Namespaces, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        ensure!(a[*kind] == b[*kind], "{kind} differs: {a:?} {b:?}");
    }
    Ok(())
}

fn differ(a: &Namespaces, b: &Namespaces, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        ensure!(a[*kind] != b[*kind], "{kind} is the same: {a:?} {b:?}");
    }
    Ok(())
}
