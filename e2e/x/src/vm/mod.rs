//! `cargo x vm`: the end-to-end tests on Debian trixie with systemd and cgroup v2, under qemu.

use anyhow::{Result, bail};

use crate::{summary::Counts, work::Work};

/// What to do in the machine.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// Boot, look, and power off.
    pub boot_only: bool,
}

/// Boots the machine and runs the tests in it.
pub fn vm(_work: &Work, _options: &Options) -> Result<Counts> {
    bail!("not there yet")
}
