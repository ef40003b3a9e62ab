//! `cargo x peer`: the end-to-end tests that are about any CRI runtime, against containerd. What fails there and passes
//! with Holdfast is either a difference that somebody meant, or a test that asks for the wrong thing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::{
    build::Profile,
    containerd::{self, Containerd},
    run::{command, step},
    summary::Counts,
    test,
    work::Work,
};

/// containerd takes a tenth of a second for most calls.
const LIMIT: Duration = Duration::from_hours(1);
/// containerd puts containers of pods that name no parent below a group of this name.
const GROUP: &str = "k8s.io";

/// Prepares all, starts containerd, runs the tests beside it in its namespaces, and ends it.
pub fn peer(work: &Work, filter: Option<&str>) -> Result<Counts> {
    test::prepare(work)?;
    containerd::build(work)?;
    let executables = step("building the tests", || test::executables_of(work, &["-p", "holdfast-e2e"]))?;
    let there = groups();
    let containerd = Containerd::start(work, "peer")?;
    let mut counts = Counts::default();
    for executable in executables.iter().filter(|executable| executable.end_to_end) {
        let init = containerd.init()?.to_string();
        let mut run = command("nsenter", ["--target", &init, "--net", "--pid", "--mount", "--"]);
        run.arg(&executable.path).args(["--show-output", "--test-threads=1"]).args(filter);
        test::environment(&mut run, work, Profile::Dev)
            .current_dir(&executable.dir)
            .env("CARGO_MANIFEST_DIR", &executable.dir)
            .env("RUST_BACKTRACE", "0")
            .env("HOLDFAST_E2E_CROWDED", "1")
            .env("HOLDFAST_E2E_ENDPOINT", format!("unix://{}", containerd.place.socket().display()))
            .env("HOLDFAST_E2E_MIRRORS", containerd.mirrors());
        counts += test::run_one(&executable.name, &mut run, LIMIT, true)?;
    }
    containerd.end()?;
    remove_groups(&there);
    Ok(counts)
}

/// Groups of containerd's default name, in every hierarchy.
fn groups() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain([top.to_owned()]).map(|hierarchy| hierarchy.join(GROUP));
    groups.filter(|group| group.is_dir()).collect()
}

/// Removes those that were not there before, with all below: containers that end with their pid namespace leave theirs.
fn remove_groups(before: &[PathBuf]) {
    groups().iter().filter(|group| !before.contains(group)).for_each(|group| remove_group(group));
}

/// Best effort: a group with processes stays.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
