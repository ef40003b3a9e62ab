//! The programs of two versions, one of which is in place, and the processes that they leave to each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use holdfast_e2e::{place, process};

/// A set of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The other one's, or a copy of this one's.
    Old,
    /// This one's.
    New,
}

/// The directory that programs are put into, as `cargo x install` does it.
pub struct Programs(PathBuf);

impl Programs {
    /// In a scene's directory.
    pub fn of(dir: &Path) -> Self {
        Self(dir.join("bin"))
    }

    /// The agent.
    pub fn holdfast(&self) -> PathBuf {
        self.0.join("holdfast")
    }

    /// Replaces the files by rename: what runs goes on as it is.
    pub fn install(&self, version: Version) -> Result<()> {
        let from = match version {
            Version::Old => place::old_programs().unwrap_or_else(place::programs),
            Version::New => place::programs(),
        };
        fs::create_dir_all(&self.0)?;
        for name in ["holdfast", "holdfast-pod", "holdfast-shim"] {
            let new = self.0.join(format!(".{name}.new"));
            fs::copy(from.join(name), &new)
                .and_then(|_| fs::rename(&new, self.0.join(name)))
                .with_context(|| format!("put {name} of {} in place", from.display()))?;
        }
        Ok(())
    }
}

/// A process by a name that is never reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pid: u32,
    /// For whoever reads that it has ended.
    parent: u32,
    start_time: String,
    program: String,
}

impl Name {
    fn of(process: &process::Stat) -> Option<Self> {
        let process::Stat { pid, parent, ref name, .. } = *process;
        Some(Self { pid, parent, start_time: start_time(pid)?, program: name.clone() })
    }

    /// It is there, and no zombie.
    pub fn lives(&self) -> bool {
        process::stat(self.pid).is_some_and(|stat| stat.state != 'Z')
            && start_time(self.pid).is_some_and(|start_time| start_time == self.start_time)
    }
}

/// Field 22 of proc_pid_stat(5).
fn start_time(pid: u32) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// Holders, shims and the processes of containers, but for those that come and go by themselves. A shell's child is still
/// called a shell for a moment before it becomes sleep.
pub fn kept_processes() -> Vec<Name> {
    let all: Vec<_> = process::descendants().into_iter().filter(|process| process.state != 'Z').collect();
    let shells: Vec<u32> =
        all.iter().filter(|process| process.name == "sh").map(|process| process.pid).collect();
    let passes = |process: &&process::Stat| {
        matches!(process.name.as_str(), "sleep" | "cat")
            || (process.name == "sh" && shells.contains(&process.parent))
    };
    let kept = all.iter().filter(|process| !passes(process));
    kept.filter_map(Name::of).collect()
}
