//! `cargo x fuzz`: the fuzz targets of the parsers that read what clients send.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::{
    run::{command, loud, output, step},
    work::Work,
};

/// The folder above `fuzz/`, and its targets.
const TARGETS: &[(&str, &[&str])] =
    &[("agent/authority", &["authority"]), ("agent/streaming", &["frame", "headers"])];

/// What `cargo x fuzz` is told.
#[derive(Debug)]
pub struct Options {
    /// Only this target.
    pub target: Option<String>,
    /// For each target.
    pub seconds: u32,
}

/// Runs the targets one after the other; a finding ends it, with where its input is.
pub fn fuzz(work: &Work, options: &Options) -> Result<()> {
    let wanted = |target: &str| options.target.as_ref().is_none_or(|only| only == target);
    let chosen: Vec<_> = TARGETS
        .iter()
        .flat_map(|(package, targets)| targets.iter().map(move |target| (*package, *target)))
        .filter(|(_, target)| wanted(target))
        .collect();
    let names: Vec<&str> = TARGETS.iter().flat_map(|(_, targets)| *targets).copied().collect();
    ensure!(!chosen.is_empty(), "no such fuzz target; there are {}", names.join(", "));
    let cargo_fuzz = cargo_fuzz(work)?;
    for (package, target) in chosen {
        step(&format!("fuzzing {target} for {} s", options.seconds), || {
            run(work, &cargo_fuzz, package, target, options.seconds)
        })?;
    }
    Ok(())
}

/// The nightly toolchain and cargo-fuzz, which are installed where they are not there.
fn cargo_fuzz(work: &Work) -> Result<PathBuf> {
    let toolchains = output(&mut command("rustup", ["toolchain", "list"]))?;
    if !toolchains.lines().any(|line| line.starts_with("nightly")) {
        step("installing the nightly toolchain, for the sanitizer", || {
            loud(&mut command("rustup", ["toolchain", "install", "nightly", "--profile", "minimal"]))
        })?;
    }
    let dir = work.dir("tools/cargo-fuzz")?;
    let program = dir.join("bin/cargo-fuzz");
    if !program.exists() {
        step("building cargo-fuzz", || {
            let mut install =
                command(env!("CARGO"), ["install", "--quiet", "--locked", "cargo-fuzz", "--root"]);
            loud(install.arg(&dir))
        })?;
    }
    Ok(program)
}

fn run(work: &Work, cargo_fuzz: &Path, package: &str, target: &str, seconds: u32) -> Result<()> {
    let corpus = work.dir(&format!("fuzz/{target}"))?;
    let mut run = command(cargo_fuzz, ["fuzz", "run"]);
    // Its own toolchain, in its own target directory: what was built for the workspace stays as it is.
    run.current_dir(work.repo.join(package)).env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO");
    run.arg("--target-dir").arg(work.dir("fuzz-target")?).arg(target).arg(corpus);
    loud(run.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1", "-verbosity=0"]))
}
