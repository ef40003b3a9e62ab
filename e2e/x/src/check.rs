//! `cargo x check`: format, lints, licences.

use anyhow::Result;

use crate::{build::cargo, host, run::step, work::Work};

/// Runs every check; the first that fails ends it.
pub fn check(work: &Work) -> Result<()> {
    step("cargo fmt --check", || cargo(work, &["fmt", "--all", "--check"]))?;
    step("cargo clippy", || {
        cargo(work, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    })?;
    if host::find("cargo-deny").is_none() {
        println!("SKIP: cargo deny: not installed (cargo install cargo-deny)");
        return Ok(());
    }
    step("cargo deny", || cargo(work, &["deny", "check", "bans", "licenses", "sources"]))
}
