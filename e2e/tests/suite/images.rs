//! Pull by tag and digest, indexes, compressions, whiteouts, users, import, list, remove.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    registry::digest_of,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
};
use serde_json::Value;

#[test]
fn pull_by_tag_and_by_digest() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let crictl = &scene.crictl;
    let digest = digest_of("holdfast.test/greeter:1")?;
    let by_tag = scene.registry.image("greeter:1");
    let by_digest = scene.registry.image(&format!("greeter@{digest}"));
    let first = pulled(&crictl.ok(&["pull", &by_tag])?)?;
    let second = pulled(&crictl.ok(&["pull", &by_digest])?)?;
    ensure!(first == second, "{first} by tag, {second} by digest");
    let image = &crictl.json(&["inspecti", &by_tag])?["status"];
    ensure!(has(&image["repoTags"], &by_tag) && has(&image["repoDigests"], &by_digest), "{image}");
    ensure!(image["id"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{image}");
    ensure!(size(image) > 100_000, "{image}");
    crictl.ok(&["rmi", &by_tag])?;
    // One reference removes the image with all of them, and an absent image is an empty answer.
    ensure!(crictl.call(&["inspecti", &by_digest]).is_ok_and(|output| !output.status.success()));
    Ok(())
}

/// An index gives the image of this machine; a mirror gives it under its original name.
#[test]
fn an_index_through_a_mirror() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let image = &scene.crictl.json(&["inspecti", BUSYBOX])?["status"];
    ensure!(has(&image["repoTags"], BUSYBOX), "{image}");
    let digest = digest_of(BUSYBOX)?;
    let wanted = format!("{}@{digest}", BUSYBOX.split(':').next().unwrap_or_default());
    ensure!(has(&image["repoDigests"], &wanted), "{wanted} is not in {image}");
    let listed = scene.crictl.json(&["images", "-o", "json"])?;
    ensure!(listed["images"].as_array().is_some_and(|all| all.len() == 1), "{listed}");
    ensure!(shell(&scene, BUSYBOX, "ls /foreign 2>/dev/null || echo native")? == "native");
    Ok(())
}

#[test]
fn zstd_layers() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let image = scene.registry.image("zstd:1");
    scene.crictl.ok(&["pull", &image])?;
    ensure!(shell(&scene, &image, "cat /packed")? == "zstd");
    Ok(())
}

/// Whiteouts, an opaque folder, a replaced file, owners and links, over four layers.
#[test]
fn layers_hide_what_is_below() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    let script = "ls /data /hidden; cat /data/replaced; ls -d /gone 2>/dev/null || echo; \
        stat -c '%a %u %g' /data/kept; readlink /data/link";
    let text = shell(&scene, &image, script)?;
    ensure!(text == "/data:\nkept\nlink\nreplaced\n\n/hidden:\nnew\nnew\n640 33 33\nkept", "{text:?}");
    Ok(())
}

/// What an image says of its user is reported, and is who its processes are; a name is never taken for uid 0.
#[test]
fn users_of_images() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    for (name, field, value, id) in [
        ("user-name", "username", "www-data", "33 33"),
        ("user-uid", "uid", "1002", "1002 0"),
        ("user-uid-group", "uid", "1003", "1003 100"),
    ] {
        let image = scene.registry.image(&format!("{name}:1"));
        scene.crictl.ok(&["pull", &image])?;
        let status = &scene.crictl.json(&["inspecti", &image])?["status"];
        let found = if field == "uid" { &status["uid"]["value"] } else { &status[field] };
        ensure!(found.as_str() == Some(value), "{name}: {status}");
        ensure!(shell(&scene, &image, "echo $(id -u) $(id -g)")? == id, "{name}");
    }
    Ok(())
}

/// Entrypoint, command, environment, working directory and stop signal of an image are the container's.
#[test]
fn an_image_s_configuration() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let image = scene.registry.image("config:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "image-config");
    let pod_id = scene.run_pod(&pod)?;
    let container = container("main", &image, &[]);
    let id = scene.start(&pod_id, &pod, &container)?;
    scene.exited(&id)?;
    let log = scene.crictl.ok(&["logs", &id])?;
    ensure!(log.lines().any(|line| line == "/work/here"), "{log}");
    ensure!(log.lines().any(|line| line == "FROM_IMAGE=yes"), "{log}");
    // The image's Env has a name without a value.
    ensure!(!log.contains("NOTHING_IS_SAID"), "{log}");
    scene.remove_pod(&pod_id)
}

/// An archive comes in from a file and from stdin, and a name that is removed is gone.
#[test]
fn import_and_remove() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let layout = holdfast_e2e::place::images();
    let archive = scene.dir.join("images.tar");
    process::run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&layout).arg("."))?;
    let agent = scene.agent()?;
    let mut file = agent.command(&["image", "import"]);
    let output = process::run(file.arg(&archive))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let images = scene.crictl.json(&["images", "-o", "json"])?;
    let tags: Vec<&Value> =
        images["images"].as_array().into_iter().flatten().map(|image| &image["repoTags"]).collect();
    for name in ["holdfast.test/layers:1", "holdfast.test/greeter:again", BUSYBOX] {
        ensure!(tags.iter().any(|tags| has(tags, name)), "{name} is not in {tags:?}");
    }
    let listed = process::run(&mut scene.agent()?.command(&["image", "list", "-o", "json"]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.status.success() && text.contains("holdfast.test/layers:1"), "{text}");
    for image in images["images"].as_array().into_iter().flatten() {
        let id = image["id"].as_str().unwrap_or_default();
        if !has(&image["repoTags"], BUSYBOX) {
            scene.crictl.ok(&["rmi", id])?;
        }
    }
    oracle.nothing_left()
}

/// A further name, given by name and by id; it moves from one image to another, and a bad one says what is wrong.
#[test]
fn a_further_name() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (layers, greeter) = (scene.registry.image("layers:1"), scene.registry.image("greeter:1"));
    let mut ids = Vec::new();
    for image in [&layers, &greeter] {
        scene.crictl.ok(&["pull", image])?;
        let id = scene.crictl.json(&["inspecti", image])?["status"]["id"].clone();
        ids.push(id.as_str().context("an id")?.to_owned());
    }
    let mut tag = |image: &str, name: &str| -> Result<(bool, String)> {
        let output = process::run(&mut scene.agent()?.command(&["image", "tag", image, name]))?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let told = tag(&layers, "further:1")?;
    ensure!(told.0, "{}", told.1);
    let told = tag("no-such-image", "further:1")?;
    ensure!(!told.0 && told.1.contains("no-such-image"), "{}", told.1);
    let told = tag(&layers, "Not A Name")?;
    ensure!(!told.0 && told.1.contains("Not A Name"), "{}", told.1);
    let is_named = |scene: &Scene, id: &str| -> Result<bool> {
        let status = scene.crictl.json(&["inspecti", id])?;
        Ok(has(&status["status"]["repoTags"], "docker.io/library/further:1"))
    };
    ensure!(is_named(&scene, &ids[0])? && !is_named(&scene, &ids[1])?);
    let output = process::run(&mut scene.agent()?.command(&["image", "tag", &ids[1], "further:1"]))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(is_named(&scene, &ids[1])? && !is_named(&scene, &ids[0])?);
    for id in ids {
        scene.crictl.ok(&["rmi", &id])?;
    }
    oracle.nothing_left()
}

/// A pulled image that is removed leaves no file, and one in use keeps its containers alive.
#[test]
fn a_removed_image_is_gone() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    scene.crictl.ok(&["pull", &image]).context("a second pull")?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// Runs a script in a container of an image, in a pod of its own, and returns what it printed.
fn shell(scene: &Scene, image: &str, script: &str) -> Result<String> {
    let pod = pod(&scene.dir, "shell");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", image))?;
    let text = scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script])?;
    scene.remove_pod(&pod_id)?;
    Ok(text)
}

/// `Image is up to date for <id>`.
fn pulled(text: &str) -> Result<String> {
    Ok(text.rsplit(' ').next().context("no id")?.to_owned())
}

fn has(list: &Value, name: &str) -> bool {
    list.as_array().into_iter().flatten().any(|item| item == name)
}

fn size(image: &Value) -> u64 {
    image["size"].as_str().and_then(|size| size.parse().ok()).unwrap_or(0)
}
