//! The release programs, side by side in target/release.

use anyhow::Result;

use crate::{
    run::{command, loud, step},
    work::Work,
};

/// Builds `holdfast`, `holdfast-pod` and `holdfast-shim`.
pub fn programs(work: &Work) -> Result<()> {
    step("building holdfast and holdfast-pod (release)", || {
        cargo(work, &["build", "--release", "--quiet", "-p", "holdfast", "-p", "holdfast-pod", "--bins"])
    })?;
    step("building holdfast-shim (release, static)", || shim(work))
}

/// The shim is static: one process per container pays for every relocation. Plain `cargo build` cannot say so for one
/// package on the gnu target, since crt-static for the host breaks proc-macros.
fn shim(work: &Work) -> Result<()> {
    let flags = ["--", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
    let mut args = vec!["rustc", "--release", "--quiet", "-p", "holdfast-shim", "--bin", "holdfast-shim"];
    args.extend(flags);
    cargo(work, &args)
}

/// Runs cargo in the repository, with the target directory that we were given.
pub fn cargo(work: &Work, args: &[&str]) -> Result<()> {
    loud(&mut cargo_command(work, args))
}

/// A cargo command, to be changed before it runs.
pub fn cargo_command(work: &Work, args: &[&str]) -> std::process::Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args);
    cargo.current_dir(&work.repo).env("CARGO_TARGET_DIR", &work.target);
    cargo
}
