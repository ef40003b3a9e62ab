//! A disk without a byte or an inode left: what runs goes on, what cannot be made is refused and leaves nothing, and all that
//! makes room works. The agent's root lies on it; it is filled anew before each step.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    disk::{Disk, Shortage},
    scene::BUSYBOX,
    specs::{self, container, pod, sleeper},
};

/// An image that no container uses, and one that is pulled when there is no room.
const UNUSED: &str = "holdfast.test/zstd:1";
const LATE: &str = "holdfast.test/greeter:1";

/// The names in some directories of the agent's root.
fn names(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for directory in
        ["containers", "pods", "images/layers", "images/blobs/sha256", "images/images", "network"]
    {
        let Ok(entries) = fs::read_dir(root.join(directory)) else { continue };
        let found = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.extend(found.map(|name| format!("{directory}/{name}")));
    }
    names.sort();
    names
}

fn everything_goes(kind: &str, shortage: Shortage) -> Result<()> {
    let mut disk = None;
    let scene = Scene::ours_with(|settings| disk = Some(Disk::mount(kind, &settings.root())))?;
    let Some(scene) = scene else { return Ok(()) };
    let disk = disk.context("the scene has no settings")??;
    let root = disk.path.clone();
    let oracle = scene.oracle()?;
    let crictl = &scene.crictl;

    let [kept, writes] = ["kept", "writes"].map(|name| pod(&scene.dir, name));
    let (kept_id, writes_id) = (scene.run_pod(&kept)?, scene.run_pod(&writes)?);
    let survivor = scene.start(&kept_id, &kept, &sleeper("survivor", BUSYBOX))?;
    let stopped = scene.start(&kept_id, &kept, &sleeper("stopped", BUSYBOX))?;
    let created = scene.create(&kept_id, &kept, &sleeper("created", BUSYBOX))?;
    let exited = scene.start(&kept_id, &kept, &container("exited", BUSYBOX, &["true"]))?;
    scene.exited(&exited)?;
    let writer = scene.start(&writes_id, &writes, &sleeper("writer", BUSYBOX))?;
    crictl.ok(&["pull", UNUSED])?;
    let script = match shortage {
        Shortage::Bytes => "dd if=/dev/zero of=/full bs=1M 2>&1; true",
        Shortage::Inodes => "i=0; while touch /full-$i; do i=$((i+1)); done 2>&1; true",
    };
    let said = scene.shell(&writer, script)?;
    ensure!(said.contains("No space left"), "{kind}: {said}");

    disk.fill(shortage)?;
    let before = names(&root);
    let (late, late_pod) = scene.create_files(&kept, &sleeper("late", BUSYBOX))?;
    let pod_file = specs::write(&scene.dir, &pod(&scene.dir, "late"))?.to_string_lossy().into_owned();
    for args in [&["create", &kept_id, &late, &late_pod][..], &["runp", &pod_file], &["pull", LATE]] {
        let refused = crictl.refused(args)?;
        ensure!(refused.code == "ResourceExhausted", "{kind}: {args:?}: {}", refused.text);
    }
    ensure!(names(&root) == before, "{kind}: {:?} instead of {before:?}", names(&root));
    ensure!(scene.shell(&survivor, "echo alive")? == "alive");
    ensure!(crictl.container_state(&survivor)? == "CONTAINER_RUNNING");
    crictl.ok(&["start", &created])?;

    let full = |args: &[&str]| -> Result<()> {
        disk.fill(shortage)?;
        crictl.ok(args).with_context(|| format!("on a full {kind}: {args:?}"))?;
        Ok(())
    };
    full(&["stop", &stopped])?;
    full(&["rm", &exited])?;
    full(&["rm", "-f", &created])?;
    full(&["stopp", &writes_id])?;
    full(&["rmp", &writes_id])?;
    full(&["rmi", UNUSED])?;
    // In use: it goes with its last container.
    full(&["rmi", BUSYBOX])?;
    ensure!(scene.shell(&survivor, "echo alive")? == "alive");
    full(&["stopp", &kept_id])?;
    full(&["rmp", &kept_id])?;

    disk.free()?;
    crictl.ok(&["pull", BUSYBOX])?;
    let again = scene.run_pod(&kept)?;
    let id = scene.start(&again, &kept, &container("after", BUSYBOX, &["echo", "hello"]))?;
    scene.exited(&id)?;
    scene.remove_pod(&again)?;
    oracle.nothing_left()
}

#[test]
fn without_a_byte() -> Result<()> {
    for kind in ["ext4", "xfs", "btrfs"].into_iter().filter(|kind| Disk::can(kind)) {
        everything_goes(kind, Shortage::Bytes)?;
    }
    Ok(())
}

/// btrfs has no fixed number of inodes.
#[test]
fn without_an_inode() -> Result<()> {
    for kind in ["ext4", "xfs"].into_iter().filter(|kind| Disk::can(kind)) {
        everything_goes(kind, Shortage::Inodes)?;
    }
    Ok(())
}
