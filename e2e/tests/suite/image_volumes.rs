//! Images that are mounted in containers (KEP-4639).

use std::fs;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{pod, sleeper, with_user_namespace},
};
use serde_json::{Value, json};

/// A mount of an image, or of a part of it.
fn volume(image: &str, sub_path: &str, target: &str) -> Value {
    json!({"container_path": target, "image": {"image": image}, "image_sub_path": sub_path, "readonly": true})
}

/// A sleeper that mounts these.
fn mounting(name: &str, mounts: Vec<Value>) -> Value {
    let mut container = sleeper(name, BUSYBOX);
    container["mounts"] = Value::Array(mounts);
    container
}

/// Each of these paths in a container is on a read-only mount.
pub fn takes_no_writes(scene: &Scene, id: &str, targets: &[&str]) -> Result<()> {
    for target in targets {
        let said = scene.shell(id, &format!("(exec 2>&1; echo x > {target}); true"))?;
        ensure!(said.contains("Read-only file system"), "{target}: {said}");
    }
    Ok(())
}

/// The content is that of all layers together, a part of it can be mounted, and nothing can be written.
#[test]
fn content_and_parts() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "volumes");
    let pod_id = scene.run_pod(&pod)?;
    let mounts = vec![volume(&image, "", "/image"), volume(&image, "data", "/part")];
    let id = scene.start(&pod_id, &pod, &mounting("main", mounts))?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    let shown = shell(
        "ls /image/data /image/hidden; cat /image/data/replaced; stat -c '%a %u %g' /image/data/kept; ls /image/gone 2>/dev/null; ls /part",
    );
    // The last ls but one fails, the last one does not.
    ensure!(
        shown?
            == "/image/data:\nkept\nlink\nreplaced\n\n/image/hidden:\nnew\nnew640 33 33\nkept\nlink\nreplaced"
    );
    takes_no_writes(&scene, &id, &["/image/new", "/image/data/kept", "/part/new"])?;
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// A mount that does not say readonly is read-only as well; a file, and what a link of the image means, can be mounted; the
/// status says which image it is.
#[test]
fn files_links_and_status() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    let single = scene.registry.image("greeter:1");
    for image in [&image, &single] {
        scene.crictl.ok(&["pull", image])?;
    }
    let pod = pod(&scene.dir, "parts");
    let pod_id = scene.run_pod(&pod)?;
    let mut loose = volume(&single, "", "/single");
    loose["readonly"] = false.into();
    loose["mount_options"] = json!([]);
    let mounts = vec![
        volume(&image, "./data/kept", "/file"),
        volume(&image, "data/link", "/link"),
        loose,
        json!({"container_path": "/host", "host_path": scene.dir}),
    ];
    let id = scene.start(&pod_id, &pod, &mounting("main", mounts))?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    ensure!(shell("cat /file /link; ls /single")? == "11greeter");
    takes_no_writes(&scene, &id, &["/file", "/single/new"])?;
    let status = scene.crictl.json(&["inspect", &id])?;
    let shown = status["status"]["mounts"].as_array().context("no mounts")?;
    let image_id = &scene.crictl.json(&["inspecti", &image])?["status"]["id"];
    ensure!(shown[0]["image"]["image"] == *image && shown[0]["image"]["imageRef"] == *image_id, "{shown:?}");
    ensure!(shown[0]["imageSubPath"] == "./data/kept" && shown[0]["hostPath"] == "", "{shown:?}");
    ensure!(shown[3]["hostPath"] == json!(scene.dir) && shown[3]["image"].is_null(), "{shown:?}");
    let spec = status["info"]["runtimeSpec"]["mounts"].as_array().context("no runtimeSpec")?;
    let mount = spec.iter().find(|mount| mount["destination"] == "/file").context("no mount of /file")?;
    ensure!(mount["type"] == "overlay" && mount["source"] == *image_id, "{mount}");
    scene.remove_pod(&pod_id)?;
    for image in [&image, &single] {
        scene.crictl.ok(&["rmi", image])?;
    }
    oracle.nothing_left()
}

/// What cannot be mounted is refused with its name, and leaves nothing.
#[test]
fn refusals() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "refused");
    let pod_id = scene.run_pod(&pod)?;
    let absent = scene.registry.image("absent:1");
    let mut both = volume(&image, "", "/v");
    both["host_path"] = "/tmp".into();
    for (mount, code, part) in [
        (volume(&image, "data/removed", "/v"), "InvalidArgument", "data/removed"),
        (volume(&image, "data/kept/x", "/v"), "InvalidArgument", "data/kept/x"),
        (volume(&image, "data/../../etc", "/v"), "InvalidArgument", "holds .."),
        (volume(&image, "/etc", "/v"), "InvalidArgument", "is absolute"),
        (volume(&absent, "", "/v"), "NotFound", absent.as_str()),
        (both, "InvalidArgument", "a mount has one source"),
    ] {
        let (container, pod_file) = scene.create_files(&pod, &mounting("main", vec![mount]))?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &container, &pod_file])?;
        ensure!(refusal.code == code && refusal.text.contains(part), "{part}: {refusal:?}");
    }
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// In a pod with a user namespace the files have the owners that the image gives them.
#[test]
fn owners_in_a_user_namespace() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    let single = scene.registry.image("greeter:1");
    for image in [&image, &single] {
        scene.crictl.ok(&["pull", image])?;
    }
    let mut pod = pod(&scene.dir, "mapped");
    with_user_namespace(&mut pod, 1_310_720);
    let pod_id = scene.run_pod(&pod)?;
    let mut mounts = vec![
        volume(&image, "", "/image"),
        volume(&image, "data/kept", "/kept"),
        volume(&single, "", "/single"),
    ];
    // As a kubelet gives them to every volume of such a pod.
    let mapping = json!([{"container_id": 0, "host_id": 1_310_720, "length": 65536}]);
    mounts[0]["uidMappings"] = mapping.clone();
    mounts[0]["gidMappings"] = mapping;
    let id = scene.start(&pod_id, &pod, &mounting("main", mounts))?;
    let script =
        "stat -c '%u %g' /image/data /image/data/kept /kept /single/greeter; ! touch /single/x 2>/dev/null";
    let shown = scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script])?;
    ensure!(shown == "0 0\n33 33\n33 33\n0 0", "{shown}");
    scene.remove_pod(&pod_id)?;
    for image in [&image, &single] {
        scene.crictl.ok(&["rmi", image])?;
    }
    oracle.nothing_left()
}

/// An image that is removed while it is mounted stays for the containers that have it, over a restart of the agent, and goes
/// with the last of them.
#[test]
fn a_removed_image_stays_while_it_is_mounted() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "held");
    let pod_id = scene.run_pod(&pod)?;
    let container = mounting("main", vec![volume(&image, "data", "/data")]);
    let id = scene.start(&pod_id, &pod, &container)?;
    let waiting = scene.create(&pod_id, &pod, &mounting("waiting", vec![volume(&image, "", "/image")]))?;
    scene.crictl.ok(&["rmi", &image])?;
    let shown =
        |scene: &Scene, id: &str, script: &str| scene.crictl.ok(&["exec", "-s", id, "sh", "-c", script]);
    ensure!(shown(&scene, &id, "cat /data/replaced")? == "new");
    scene.agent()?.crash()?;
    ensure!(shown(&scene, &id, "cat /data/kept")? == "1");
    scene.crictl.ok(&["start", &waiting])?;
    ensure!(shown(&scene, &waiting, "cat /image/hidden/new")? == "2");
    let status = scene.crictl.json(&["inspect", &waiting])?;
    ensure!(
        status["status"]["mounts"][0]["image"]["imageRef"]
            .as_str()
            .is_some_and(|id| id.starts_with("sha256:")),
        "{}",
        status["status"]
    );
    // Nobody else can have it any more.
    let (other, pod_file) =
        scene.create_files(&pod, &mounting("other", vec![volume(&image, "", "/image")]))?;
    ensure!(scene.crictl.refused(&["create", &pod_id, &other, &pod_file])?.code == "NotFound");
    for id in [&id, &waiting] {
        scene.crictl.ok(&["stop", id])?;
        scene.crictl.ok(&["rm", id])?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// `holdfast run` mounts an image that a manifest names.
#[test]
fn a_manifest_with_an_image() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    let manifest = scene.dir.join("pod.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: images}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
         image: {BUSYBOX}\n    command: [sh, -c, 'ls /data; ! touch /data/x 2>/dev/null']\n    \
         volumeMounts: [{{name: data, mountPath: /data, subPath: data}}]\n  \
         volumes: [{{name: data, image: {{reference: '{image}', pullPolicy: IfNotPresent}}}}]\n"
    );
    fs::write(&manifest, text).context("write the manifest")?;
    let path = manifest.to_string_lossy().into_owned();
    let output = process::run(&mut scene.agent()?.command(&["run", &path]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    ensure!(String::from_utf8_lossy(&output.stdout) == "kept\nlink\nreplaced\n", "{output:?}");
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}
