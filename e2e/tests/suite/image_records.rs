//! The image store loses what it knows while containers run from its layers: none of them notices.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{pod, sleeper},
    wait,
};

/// Files below a container's root as the container sees them; a layer that is gone shows fewer, or none.
fn files(scene: &Scene, id: &str) -> Result<String> {
    scene.shell(id, "find / -xdev -type f | wc -l; busybox cat /bin/busybox | md5sum")
}

fn layers(scene: &mut Scene) -> Result<Vec<PathBuf>> {
    let layers = scene.agent()?.settings.root().join("images/layers");
    Ok(fs::read_dir(layers)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

fn drop_caches() -> Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "2").context("drop the kernel's caches of names")
}

fn no_layers_in(scene: &mut Scene) -> Result<()> {
    wait::until_true("the end of all layers", || Ok(layers(scene)?.is_empty()))
}

type Damage = fn(&Path) -> std::io::Result<()>;

#[test]
fn lost_records_of_images() -> Result<()> {
    let damages: [(&str, Damage); 4] = [
        ("all records gone", |images| fs::remove_dir_all(images.join("images"))),
        ("a record torn", |images| {
            for entry in fs::read_dir(images.join("images"))? {
                fs::write(entry?.path(), "{\"version\":1,")?;
            }
            Ok(())
        }),
        ("an older program's records torn", |images| fs::write(images.join("store.redb"), "")),
        ("nothing but layers and blobs", |images| {
            fs::remove_dir_all(images.join("images"))?;
            fs::remove_file(images.join("store.redb"))
        }),
    ];
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    for (what, damage) in damages {
        scene.crictl.ok(&["pull", BUSYBOX])?;
        let pod = pod(&scene.dir, "runs");
        let pod_id = scene.run_pod(&pod)?;
        let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
        let before = files(&scene, &id)?;
        scene.agent()?.kill9()?;
        damage(&scene.agent()?.settings.root().join("images"))?;
        scene.agent()?.start_again()?;
        drop_caches()?;
        ensure!(files(&scene, &id)? == before, "{what}: {} instead of {before}", files(&scene, &id)?);
        // It is not the list that keeps the layers.
        let image = scene.status(&id)?["imageId"].as_str().context("no image id")?.to_owned();
        scene.crictl.ok(&["rmi", &image])?;
        for round in 0..2 {
            drop_caches()?;
            ensure!(files(&scene, &id)? == before, "{what}: round {round}");
            ensure!(!scene.crictl.call(&["inspecti", &image])?.status.success(), "{what}: {image} is back");
            scene.agent()?.crash()?;
        }
        scene.remove_pod(&pod_id)?;
        no_layers_in(&mut scene).context(what)?;
    }
    fs::remove_file(scene.agent()?.settings.root().join("images/store.redb.unreadable"))?;
    oracle.agent_is_now(scene.agent()?.pid());
    scene.crictl.ok(&["pull", BUSYBOX])?;
    oracle.nothing_left()
}
/// Nobody knows what a container holds whose record is torn, so nothing that it may hold goes; when it is gone, it does.
#[test]
fn a_torn_record_of_a_container() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "torn");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let pid = scene.crictl.json(&["inspect", &id])?["info"]["pid"].as_u64().context("no pid")?;
    let there = layers(&mut scene)?.len();
    scene.agent()?.kill9()?;
    let record = scene.agent()?.settings.root().join("containers").join(&id).join("record.json");
    fs::write(&record, &fs::read(&record)?[..40])?;
    scene.agent()?.start_again()?;
    scene.crictl.ok(&["rmi", BUSYBOX])?;
    scene.agent()?.crash()?;
    drop_caches()?;
    ensure!(layers(&mut scene)?.len() == there, "{:?}", layers(&mut scene)?);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    ensure!(fs::read(root.join("bin/busybox")).context("what the container sees")?.len() > 100_000);
    scene.remove_pod(&pod_id)?;
    ensure!(layers(&mut scene)?.len() == there, "it is in quarantine, and holds what it holds");
    let removed = process::run(&mut scene.agent()?.command(&["quarantine", "remove", &id]))?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    // The next one who wants room gets it.
    scene.crictl.ok(&["pull", "holdfast.test/zstd:1"])?;
    scene.crictl.ok(&["rmi", "holdfast.test/zstd:1"])?;
    no_layers_in(&mut scene)?;
    oracle.agent_is_now(scene.agent()?.pid());
    scene.crictl.ok(&["pull", BUSYBOX])?;
    oracle.nothing_left()
}
