//! `cargo x bench`: an agent of its own and the benchmark client against it.

use anyhow::{Result, bail};

use crate::work::Work;

/// Builds, starts an agent, and prints the client's table.
pub fn bench(_work: &Work, _args: &[String]) -> Result<()> {
    bail!("not there yet")
}
