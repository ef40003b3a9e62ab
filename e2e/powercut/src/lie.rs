//! A disk that lies to its agent: the harness, tested. Calls that wait for the disk succeed at once, and nothing is flushed.
//!
//! The agent runs under a seccomp filter that answers these calls in the kernel's place (seccomp(2), SECCOMP_RET_ERRNO with 0).

use std::{fmt, os::unix::process::CommandExt, process::Command, str::FromStr};

use anyhow::{Context, Result};
use libseccomp::{ScmpAction, ScmpFilterContext, ScmpSyscall};

/// Calls that do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Those for one file: records of pods, containers, networks and images.
    Files,
    /// The one for a whole file system: the layers of images.
    FileSystems,
}

impl Lie {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Files, Self::FileSystems];

    fn name(self) -> &'static str {
        match self {
            Self::Files => "fsync",
            Self::FileSystems => "syncfs",
        }
    }

    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Files => &["fsync", "fdatasync", "sync_file_range"],
            Self::FileSystems => &["syncfs", "sync"],
        }
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Lie {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|lie| lie.name() == name);
        found.with_context(|| format!("{name}: not one of fsync, syncfs"))
    }
}

/// Becomes a program that is lied to.
///
/// # Errors
/// Those of seccomp(2) and execve(2); else it does not return.
pub fn run(lie: Lie, command: &[String]) -> Result<std::convert::Infallible> {
    let (program, args) = command.split_first().context("no program")?;
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow).context("make a filter")?;
    // We are root; and the agent starts programs that are more than it is.
    filter.set_ctl_nnp(false).context("leave privileges as they are")?;
    for call in lie.calls() {
        let call = ScmpSyscall::from_name(call).with_context(|| format!("look up {call}"))?;
        filter.add_rule(ScmpAction::Errno(0), call).context("add a rule")?;
    }
    filter.load().context("load a filter")?;
    Err(Command::new(program).args(args).exec()).with_context(|| format!("run {program}"))
}
