//! The stored records of all versions before a real agent, and records of which this version does not know something.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::{BUSYBOX, own_mounts},
    specs::pod,
    wait,
};
use serde_json::Value;

use crate::recovery::{Sleeper, directory, ids_of, lives, quarantine};

/// The stored samples of a format, of all versions; later sets say of the same objects what earlier ones do, and more.
fn stored(format: &str) -> Result<Vec<(String, Value)>> {
    let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/sets").join(format);
    let mut sets: Vec<PathBuf> = children(&sets)?;
    sets.sort();
    let samples: Vec<PathBuf> = sets.iter().map(|set| children(set)).collect::<Result<Vec<_>>>()?.concat();
    let read = |path: &PathBuf| -> Result<(String, Value)> {
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        Ok((name, serde_json::from_slice(&fs::read(path)?)?))
    };
    samples.iter().map(read).collect()
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?)
}

fn put(path: &Path, value: &Value) -> Result<()> {
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(path, value.to_string()).with_context(|| format!("write {}", path.display()))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn hex(digest: &Value) -> Result<&str> {
    text(digest)?.strip_prefix("sha256:").context("a digest")
}

/// Puts all records where an agent keeps them.
fn plant(root: &Path) -> Result<()> {
    for (format, directory) in [("pod", "pods"), ("container", "containers")] {
        for (_, mut record) in stored(format)? {
            // No systemd may be here to know of units.
            record["cgroup"].as_object_mut().context("a cgroup")?.remove("unit");
            if format == "pod" {
                record["cgroup_made"]["units"] = Value::Array(Vec::new());
            }
            put(&root.join(directory).join(text(&record["id"])?).join("record.json"), &record)?;
        }
    }
    for (_, record) in stored("network")? {
        put(&root.join(format!("network/pods/{}.json", text(&record["pod"])?)), &record)?;
    }
    for (name, record) in stored("image")? {
        let digit = if name == "whole" { "1" } else { "7" };
        put(&root.join(format!("images/images/{}.json", digit.repeat(64))), &record)?;
        fs::create_dir_all(root.join("images/directories").join(digit.repeat(64)).join("fs"))?;
        for (_, mut layer) in stored("layer")? {
            for diff_id in record["diff_ids"].as_array().context("layers")? {
                layer["diff_id"] = diff_id.clone();
                let dir = root.join("images/layers").join(hex(diff_id)?);
                put(&dir.join("layer.json"), &layer)?;
                put(&dir.join("fs/file"), &Value::Null)?;
            }
        }
    }
    Ok(())
}

/// As on a node that was rebooted into this version: all is listed as it was, and can be removed.
#[test]
fn stored_records_of_all_versions_are_taken_over() -> Result<()> {
    if stored("pod").is_err() {
        println!("SKIP: the repository's stored records are not on this machine");
        return Ok(());
    }
    own_mounts()?;
    let scene = Scene::ours_with(|settings| {
        settings.cni_bin_dirs = vec![settings.dir.join("plugins")];
        // The records tell of CNI, and there is no configuration.
        settings.network_mode = Some("embedded");
    })?;
    let Some(mut scene) = scene else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let plugin = scene.dir.join("plugins/stored");
    fs::create_dir_all(scene.dir.join("plugins"))?;
    fs::write(&plugin, "#!/bin/sh\ncat >/dev/null\nexit 0\n")?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
    scene.agent()?.kill9()?;
    let root = scene.agent()?.settings.root();
    plant(&root)?;
    scene.agent()?.start_again()?;

    ensure!(quarantine(&scene, &["list"])?.lines().count() <= 1, "{}", quarantine(&scene, &["list"])?);
    let id = |kind: &str, number: u8| format!("{}{number:02x}", kind.repeat(62));
    for (number, state) in [(2, 255), (3, 255), (4, 137), (5, 137), (7, 137)] {
        let status = scene.status(&id("c", number))?;
        ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == state, "{status}");
    }
    wait::until_true("what was being made or removed to be gone", || {
        let (pods, containers) = (scene.crictl.ok(&["pods", "-q", "--no-trunc"])?, ids_of(&scene)?);
        Ok(pods.lines().count() == 3 && containers.len() == 5)
    })?;
    for number in [2, 3, 5] {
        let status = scene.crictl.json(&["inspectp", &id("b", number)])?["status"].clone();
        ensure!(status["state"] == "SANDBOX_NOTREADY", "{status}");
    }
    let images = scene.crictl.ok(&["images"])?;
    ensure!(images.contains("registry.example/web"), "{images}");
    wait::until_true("networks of another boot to be taken back", || {
        Ok(children(&root.join("network/pods"))?.is_empty())
    })?;
    for number in [2, 3, 5] {
        scene.remove_pod(&id("b", number))?;
    }
    for digit in ["1", "7"] {
        scene.crictl.ok(&["rmi", &format!("sha256:{}", digit.repeat(64))])?;
    }
    let pod_id = scene.run_pod(&pod(&scene.dir, "after"))?;
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// Replaces text in a file, which must be there.
fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let before = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(before.contains(from), "{from} is not in {}: {before}", path.display());
    fs::write(path, before.replace(from, to)).context("edit a record")
}

/// Records of our version with a value that only a newer program has, and newer ones of networks and images: they stay
/// where they are, nothing ends, what they hold is not given away, and the newer program finds all as it was.
#[test]
fn values_of_a_newer_version_are_left_alone() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let newer = Sleeper::start(&scene, "newer")?;
    let half = Sleeper::start(&scene, "half")?;
    let root = scene.agent()?.settings.root();
    let address = address(&scene, &newer.pod_id)?;
    let network = |pod_id: &str| root.join(format!("network/pods/{pod_id}.json"));
    let image = children(&root.join("images/images"))?.into_iter().find(|path| path.extension().is_some());
    let image = image.context("no record of an image")?;
    let edits: [(PathBuf, &str, &str); 5] = [
        (
            directory(&scene, "pods", &newer.pod_id)?.join("record.json"),
            "\"phase\":\"ready\"",
            "\"phase\":\"paused\"",
        ),
        (
            directory(&scene, "containers", &newer.id)?.join("record.json"),
            "\"phase\":\"running\"",
            "\"phase\":\"frozen\"",
        ),
        (network(&newer.pod_id), "{\"embedded\":", "{\"overlay\":"),
        // The pod is known, its network is not.
        (network(&half.pod_id), "\"version\":1", "\"version\":9"),
        (image.clone(), "\"version\":1", "\"version\":9"),
    ];
    scene.agent()?.kill9()?;
    for (path, from, to) in &edits {
        edit(path, from, to)?;
    }
    scene.agent()?.start_again()?;
    for _ in 0..2 {
        scene.agent()?.crash()?;
        lives(newer.pid)?;
        half.is_the_same(&scene)?;
        ensure!(ids_of(&scene)? == std::slice::from_ref(&half.id), "{:?}", ids_of(&scene)?);
        for (path, _, to) in &edits {
            ensure!(fs::read_to_string(path)?.contains(to), "{} has changed", path.display());
        }
    }
    let list = quarantine(&scene, &["list"])?;
    ensure!(list.lines().count() == 3 && list.contains("not understood"), "{list}");
    let other = scene.run_pod(&pod(&scene.dir, "other"))?;
    ensure!(self::address(&scene, &other)? != address, "{address} was given away");
    scene.remove_pod(&other)?;

    scene.agent()?.kill9()?;
    for (path, from, to) in &edits {
        edit(path, to, from)?;
    }
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    for sleeper in [&newer, &half] {
        sleeper.is_the_same(&scene)?;
        ensure!(scene.crictl.ok(&["exec", "-s", &sleeper.id, "echo", "hello"])? == "hello");
    }
    ensure!(self::address(&scene, &newer.pod_id)? == address, "another address");
    ensure!(scene.crictl.ok(&["images"])?.contains("busybox"), "the image has lost its name");
    let again = scene.crictl.ok(&["pull", BUSYBOX])?;
    ensure!(!again.is_empty());
    scene.remove_pod(&newer.pod_id)?;
    scene.remove_pod(&half.pod_id)?;
    oracle.nothing_left()
}

fn address(scene: &Scene, pod_id: &str) -> Result<String> {
    let status = scene.crictl.json(&["inspectp", pod_id])?;
    Ok(text(&status["status"]["network"]["ip"])?.to_owned())
}
