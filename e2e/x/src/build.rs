//! The programs, side by side in target/debug or target/release.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    run::{command, loud, step},
    work::Work,
};

/// How the programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// In a minute, with checks of arithmetic: for the tests of every day.
    Dev,
    /// What users get.
    Release,
}

impl Profile {
    /// Where cargo puts what it builds so.
    pub fn directory(self, work: &Work) -> PathBuf {
        work.target.join(match self {
            Self::Dev => "debug",
            Self::Release => "release",
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Builds `holdfast`, `holdfast-pod` and `holdfast-shim`.
pub fn programs(work: &Work, profile: Profile) -> Result<()> {
    let name = profile.name();
    step(&format!("building holdfast and holdfast-pod ({name})"), || {
        let which = ["-p", "holdfast", "-p", "holdfast-pod", "--bins"];
        cargo(work, &[&["build", "--quiet", "--profile", name], &which[..]].concat())
    })?;
    step(&format!("building holdfast-shim ({name}, static)"), || shim(work, name))
}

/// The shim is static: one process per container pays for every relocation. Plain `cargo build` cannot say so for one
/// package on the gnu target, since crt-static for the host breaks proc-macros.
fn shim(work: &Work, profile: &str) -> Result<()> {
    let flags = ["--", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
    let mut args = vec!["rustc", "--quiet", "--profile", profile];
    args.extend(["-p", "holdfast-shim", "--bin", "holdfast-shim"]);
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
