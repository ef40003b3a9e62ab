//! `cargo x upgrade`: builds another revision's programs, and lets agents of that and of this version take over each other's
//! pods (`e2e/tests/suite/upgrade`).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    build::{self, PROGRAMS, Profile},
    run::{command, loud, output, step},
    summary::Counts,
    test,
    work::Work,
};

/// The revision to upgrade from if none is named: the last one before formats of records and messages were stored and
/// versions of the protocol were told. Nothing in the tree says what its programs write but they themselves. To be raised to the
/// last release once there are releases.
pub const FROM: &str = "5cea3668f37ea134e13d40906a0448c31e1ad615";

const LIMIT: Duration = Duration::from_mins(15);

/// Builds both, and runs the tests.
pub fn upgrade(work: &Work, from: &str) -> Result<Counts> {
    test::prepare(work)?;
    let old = old_programs(work, from)?;
    build::programs(work, Profile::Dev)?;
    let executables = step("building the tests", || test::executables_of(work, &["-p", "holdfast-e2e"]))?;
    let mut counts = Counts::default();
    for executable in executables.iter().filter(|executable| executable.end_to_end) {
        let mut run = executable.command(Some("upgrade"));
        test::environment(&mut run, work, Profile::Dev).env("HOLDFAST_E2E_OLD", &old);
        counts += test::run_one(&executable.name, &mut run, LIMIT, true)?;
    }
    Ok(counts)
}

/// The programs of a revision, built in a worktree of its own; those of before stay.
fn old_programs(work: &Work, from: &str) -> Result<PathBuf> {
    let dir = work.dir("upgrade")?;
    let revision = output(git(work).args(["rev-parse", "--verify", &format!("{from}^{{commit}}")]))
        .with_context(|| {
            format!("find the revision {from}; a shallow clone has few: git fetch --unshallow")
        })?;
    let revision = revision.trim();
    let programs = dir.join(&revision[..12]);
    if PROGRAMS.iter().all(|name| programs.join(name).exists()) {
        return Ok(programs);
    }
    let tree = dir.join("tree");
    step(&format!("building the programs of {from} (dev)"), || {
        check_out(work, &tree, revision)?;
        let target = dir.join("target");
        let mut cargo = build::cargo_command(work, &["build", "--quiet", "--locked", "--bins"]);
        cargo.args(PROGRAMS.iter().flat_map(|program| ["-p", *program]));
        // One target directory for all revisions: what they do not differ in is built once.
        loud(cargo.current_dir(&tree).env("CARGO_TARGET_DIR", &target))?;
        fs::create_dir_all(&programs).with_context(|| format!("make {}", programs.display()))?;
        for name in PROGRAMS {
            let built = target.join("debug").join(name);
            fs::copy(&built, programs.join(name)).with_context(|| format!("copy {}", built.display()))?;
        }
        Ok(())
    })?;
    Ok(programs)
}

/// The one worktree, which was removed by hand perhaps, at a revision.
fn check_out(work: &Work, tree: &Path, revision: &str) -> Result<()> {
    if tree.join(".git").exists() {
        return loud(
            command("git", ["-C"]).arg(tree).args(["checkout", "--quiet", "--force", "--detach", revision]),
        );
    }
    loud(git(work).args(["worktree", "prune"]))?;
    loud(git(work).args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(tree).arg(revision))
}

fn git(work: &Work) -> std::process::Command {
    let mut git = command("git", ["-C"]);
    git.arg(&work.repo);
    git
}
