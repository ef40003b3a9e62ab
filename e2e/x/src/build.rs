//! The programs, side by side in target/debug or target/release.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::{
    apt, host,
    run::{command, loud, output, step},
    work::Work,
};

/// The programs, which are packages of the same names.
pub const PROGRAMS: [&str; 3] = ["holdfast", "holdfast-pod", "holdfast-shim"];

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

    /// Cargo's arguments for what this profile has more than others: tests make the programs fail at failpoints, which users'
    /// programs do not have.
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Self::Dev => {
                &["--features", "holdfast/failpoints,holdfast-pod/failpoints,holdfast-shim/failpoints"]
            }
            Self::Release => &[],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// `cargo x build`: builds the programs, and says where they are.
pub fn build(work: &Work, profile: Profile) -> Result<()> {
    prepared(work, profile)?;
    println!("{}", profile.directory(work).display());
    Ok(())
}

/// Installs what building needs, and builds.
pub fn prepared(work: &Work, profile: Profile) -> Result<()> {
    host::check(host::BUILD, &apt::missing(apt::BUILD))?;
    apt::install(work, apt::BUILD)?;
    programs(work, profile)
}

/// Builds `holdfast`, `holdfast-pod` and `holdfast-shim`.
pub fn programs(work: &Work, profile: Profile) -> Result<()> {
    let name = profile.name();
    step(&format!("building holdfast, holdfast-pod and holdfast-shim ({name})"), || {
        let which: Vec<&str> = PROGRAMS.iter().flat_map(|program| ["-p", *program]).collect();
        let how = ["build", "--quiet", "--bins", "--profile", name];
        cargo(work, &[&how[..], &which, profile.features()].concat())?;
        check_static(&profile.directory(work).join("holdfast-shim"))
    })
}

/// The shim's build script makes it static where it can, and else says so in a warning that is not seen here.
fn check_static(program: &Path) -> Result<()> {
    let segments = output(command("readelf", ["--wide", "--program-headers"]).arg(program))?;
    ensure!(
        !segments.contains("INTERP"),
        "{} is linked dynamically: install the static C library (Debian: libc6-dev, Fedora: glibc-static), then \
         touch shim/build.rs",
        program.display()
    );
    Ok(())
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
