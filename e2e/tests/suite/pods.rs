//! What a pod and a container are called, and what is said of them: metadata, labels, annotations. And the part of a
//! pod's configuration that concerns the sandbox itself.

use std::fs;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    grpc::{self, Message},
    scene::BUSYBOX,
    specs::{self, pod, sleeper},
};
use serde_json::{Value, json};

/// Name, namespace, uid and attempt are what a pod is known by: the same again is the same pod, another attempt is
/// another pod, and another configuration under the same name is refused.
#[test]
fn metadata_is_what_a_pod_is_known_by() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "known");
    let first = scene.run_pod(&pod)?;
    let told = &scene.crictl.json(&["inspectp", &first])?["status"]["metadata"];
    for part in ["name", "namespace", "uid"] {
        ensure!(told[part] == pod["metadata"][part], "{part}: {told}");
    }
    ensure!(scene.run_pod(&pod)? == first, "asked again, another pod was made");
    let mut other = pod.clone();
    other["labels"]["app"] = "other".into();
    let refusal = scene.crictl.refused(&["runp", &specs::write(&scene.dir, &other)?.to_string_lossy()])?;
    ensure!(refusal.code == "AlreadyExists" && refusal.text.contains("known"), "{refusal:?}");
    let mut ids = vec![first];
    for (part, value) in [("attempt", json!(3)), ("uid", json!("other")), ("namespace", json!("elsewhere"))] {
        pod["metadata"][part] = value;
        let id = scene.run_pod(&pod)?;
        ensure!(!ids.contains(&id), "another {part} is the same pod");
        ids.push(id);
    }
    let last = &scene.crictl.json(&["inspectp", ids.last().context("no pod")?])?["status"]["metadata"];
    ensure!(last["attempt"] == 3, "{last}");
    for id in ids {
        scene.remove_pod(&id)?;
    }
    oracle.nothing_left()
}

/// Its parts are told apart, wherever a joint between them could be seen.
#[test]
fn metadata_that_reads_the_same_when_joined() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "joined");
    let mut ids = Vec::new();
    for (name, namespace, uid) in [("a_b", "c", "d"), ("a", "b_c", "d"), ("a", "b", "c_d")] {
        pod["metadata"] = json!({"name": name, "namespace": namespace, "uid": uid, "attempt": 0});
        let id = scene.run_pod(&pod)?;
        ensure!(!ids.contains(&id), "{namespace}/{name} is another pod");
        ids.push(id);
    }
    for container in ["m_1", "m"] {
        let mut config = sleeper(container, BUSYBOX);
        config["metadata"]["attempt"] = 1.into();
        scene.create(&ids[0], &pod, &config)?;
    }
    for id in ids {
        scene.remove_pod(&id)?;
    }
    oracle.nothing_left()
}

/// The same for a container, by its name and attempt within its pod.
#[test]
fn metadata_is_what_a_container_is_known_by() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "containers");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["metadata"]["attempt"] = 4.into();
    container["image"]["user_specified_image"] = "busybox, as a user wrote it".into();
    container["image"]["annotations"] = json!({"of": "the image"});
    let id = scene.create(&pod_id, &pod, &container)?;
    let status = scene.status(&id)?;
    ensure!(status["metadata"] == json!({"name": "main", "attempt": 4}), "{status}");
    let image = &status["image"];
    ensure!(image["image"] == BUSYBOX && image["annotations"]["of"] == "the image", "{image}");
    ensure!(image["userSpecifiedImage"] == "busybox, as a user wrote it", "{image}");
    ensure!(scene.create(&pod_id, &pod, &container)? == id, "asked again, another container was made");
    scene.crictl.ok(&["start", &id])?;
    let (file, pod_file) = scene.create_files(&pod, &container)?;
    let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
    ensure!(refusal.code == "AlreadyExists" && refusal.text.contains("main"), "{refusal:?}");
    container["metadata"]["attempt"] = 5.into();
    ensure!(scene.create(&pod_id, &pod, &container)? != id);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Labels and annotations come back as they were, whatever is in them, and lists are selected by labels.
#[test]
fn labels_and_annotations_come_back() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let text = "a = b\n\u{1f980} \"quoted\"\\";
    let mut pod = pod(&scene.dir, "labels");
    pod["labels"] = json!({"app": "mine", "odd": text});
    pod["annotations"] = json!({"note": text});
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["labels"] = json!({"part": "this", "odd": text});
    container["annotations"] = json!({"note": text, "empty": ""});
    let id = scene.create(&pod_id, &pod, &container)?;
    let other = scene.create(&pod_id, &pod, &sleeper("other", BUSYBOX))?;
    let told = &scene.crictl.json(&["inspectp", &pod_id])?["status"];
    ensure!(told["labels"] == pod["labels"] && told["annotations"] == pod["annotations"], "{told}");
    let told = scene.status(&id)?;
    ensure!(
        told["labels"] == container["labels"] && told["annotations"] == container["annotations"],
        "{told}"
    );
    let listed = &scene.crictl.json(&["ps", "-a", "-o", "json", "--label", "part=this"])?["containers"];
    ensure!(listed.as_array().is_some_and(|all| all.len() == 1 && all[0]["id"] == id.as_str()), "{listed}");
    ensure!(listed[0]["annotations"] == container["annotations"], "{listed}");
    let listed = &scene.crictl.json(&["pods", "-o", "json", "--label", "app=mine"])?["items"];
    ensure!(
        listed.as_array().is_some_and(|all| all.len() == 1 && all[0]["id"] == pod_id.as_str()),
        "{listed}"
    );
    ensure!(scene.crictl.ok(&["pods", "-q", "--label", "app=none"])?.is_empty());
    ensure!(scene.crictl.ok(&["ps", "-a", "-q", "--no-trunc"])?.contains(&other));
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// User, groups, root, profile and privileges of a sandbox are those of the process that holds it. Ours has nothing
/// whatever is asked for: nobody's ids, no capability, an empty read-only root.
#[test]
fn a_sandbox_has_no_rights_to_give() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "sandbox");
    let context = &mut pod["linux"]["security_context"];
    context["run_as_user"] = json!({"value": 0});
    context["run_as_group"] = json!({"value": 0});
    context["supplemental_groups"] = json!([0, 4]);
    context["supplemental_groups_policy"] = 1.into();
    context["readonly_rootfs"] = false.into();
    context["privileged"] = true.into();
    context["seccomp"] = json!({"profile_type": 1});
    context["seccomp_profile_path"] = "unconfined".into();
    let pod_id = scene.run_pod(&pod)?;
    let info = &scene.crictl.json(&["inspectp", &pod_id])?["info"];
    let status = fs::read_to_string(format!("/proc/{}/status", info["pid"]))?;
    for line in [
        "Uid:\t65535",
        "Gid:\t65535",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.lines().any(|found| found.starts_with(line)), "{line} is not in\n{status}");
    }
    ensure!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
    let root = fs::read_dir(format!("/proc/{}/root", info["pid"]))?.count();
    let written = fs::write(format!("/proc/{}/root/x", info["pid"]), "");
    ensure!(root <= 2 && written.is_err(), "{root} entries");
    for (field, value) in [
        ("run_as_user", json!({"value": -1})),
        ("run_as_group", json!({"value": 4_294_967_295_u32})),
        ("supplemental_groups", json!([-1])),
        ("supplemental_groups_policy", json!(7)),
        ("seccomp", json!({"profile_type": 9})),
        ("seccomp_profile_path", json!("nonsense")),
    ] {
        let mut pod = specs::pod(&scene.dir, "refused");
        pod["linux"]["security_context"]["run_as_user"] = json!({"value": 1});
        pod["linux"]["security_context"][field] = value;
        let refusal = scene.crictl.refused(&["runp", &specs::write(&scene.dir, &pod)?.to_string_lossy()])?;
        ensure!(refusal.code == "InvalidArgument" && refusal.text.contains(field), "{field}: {refusal:?}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Overhead and the sum of the resources are told, are changed by UpdatePodSandboxResources, and outlive the agent. The
/// cgroup that they are about is the kubelet's.
#[test]
fn resources_of_a_pod() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "pod-resources");
    pod["linux"]["overhead"] = json!({"cpu_shares": 11, "memory_limit_in_bytes": 1_048_576});
    pod["linux"]["resources"] = json!({"cpu_shares": 22, "memory_limit_in_bytes": 2_097_152});
    let pod_id = scene.run_pod(&pod)?;
    let told = |scene: &Scene| -> Result<[Value; 4]> {
        let config = &scene.crictl.json(&["inspectp", &pod_id])?["info"]["config"];
        let number = |part: &str, field: &str| config[part][field].clone();
        Ok([
            number("overhead", "cpu_shares"),
            number("overhead", "memory_limit_bytes"),
            number("resources", "cpu_shares"),
            number("resources", "memory_limit_bytes"),
        ])
    };
    let found = told(&scene)?;
    ensure!(found == [json!(11), json!(1_048_576), json!(22), json!(2_097_152)], "{found:?}");

    // runtime.v1.LinuxContainerResources: cpu_shares 3, memory_limit_in_bytes 4.
    let resources = |shares, memory| Message::default().number(3, shares).number(4, memory);
    let socket = scene.socket()?;
    let update = |id: &str, field: u64, resources: &Message| {
        let request = Message::default().text(1, id).message(field, resources);
        grpc::call(&socket, "/runtime.v1.RuntimeService/UpdatePodSandboxResources", &request)
    };
    update(&pod_id, 3, &resources(44, 4_194_304))?;
    let found = told(&scene)?;
    ensure!(found == [json!(11), json!(1_048_576), json!(44), json!(4_194_304)], "{found:?}");
    update(&pod_id, 2, &resources(33, 3_145_728))?;
    ensure!(update("no-such-pod", 3, &resources(1024, 0)).is_err(), "an unknown pod was updated");
    ensure!(update(&pod_id, 3, &resources(-1, 0)).is_err(), "negative shares were taken");
    scene.agent()?.crash()?;
    let found = told(&scene)?;
    ensure!(found == [json!(33), json!(3_145_728), json!(44), json!(4_194_304)], "{found:?}");
    oracle.agent_is_now(scene.agent()?.pid());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
