//! Tells the program which commit it was built from. Never fails: a source archive has no repository.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=HOLDFAST_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let commit = env::var("HOLDFAST_COMMIT").ok().or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=HOLDFAST_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // Only what is released has to name its commit exactly: a debug build is not made anew for every commit.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
