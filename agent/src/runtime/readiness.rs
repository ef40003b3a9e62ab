//! RuntimeReady: whether pods and containers can be made on this node, looked at in the background.
//!
//! A full disk is not among the reasons: the kubelet sees it by its own means and evicts, which it does not on a node that
//! is not ready.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use holdfast_cgroup::Driver;
use tokio::time::timeout;

use super::{Runtime, blocking::blocking};

/// How often the node is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Longest time for a look: what hangs is not ready.
const LIMIT: Duration = Duration::from_secs(10);
/// File that is written and removed to see whether a directory takes writes.
const PROBE: &str = ".probe";

/// What Status says of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is ready.
    pub ready: bool,
    /// A word for machines; empty when ready.
    pub reason: String,
    /// A sentence for people; empty when ready.
    pub message: String,
}

impl Readiness {
    fn ready() -> Self {
        Self { ready: true, reason: String::new(), message: String::new() }
    }

    fn not(reason: &str, message: String) -> Self {
        Self { ready: false, reason: reason.to_owned(), message }
    }
}

/// The last look.
#[derive(Debug)]
pub struct LastLook(Mutex<Readiness>);

impl Default for LastLook {
    fn default() -> Self {
        Self(Mutex::new(Readiness::ready()))
    }
}

impl LastLook {
    fn get(&self) -> Readiness {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is another one than before.
    fn set(&self, now: &Readiness) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *last != *now;
        last.clone_from(now);
        changed
    }
}

impl Runtime {
    /// As it was at the last look. Without I/O.
    pub fn readiness(&self) -> Readiness {
        self.last_look.get()
    }

    /// Begins to look.
    pub(super) fn watch_readiness(&self) {
        let runtime = self.clone();
        tokio::spawn(async move {
            loop {
                let now = timeout(LIMIT, runtime.look()).await.unwrap_or_else(|_| {
                    let root = runtime.config.root.display();
                    let limit = LIMIT.as_secs();
                    Readiness::not(
                        "RootNotUsable",
                        format!("{root} or systemd gave no answer within {limit} s"),
                    )
                });
                if runtime.last_look.set(&now) {
                    let Readiness { ready, reason, message } = now;
                    tracing::warn!(ready, reason, message, "RuntimeReady has changed");
                }
                tokio::time::sleep(EVERY).await;
            }
        });
    }

    async fn look(&self) -> Readiness {
        let programs = [self.pod_program.clone(), self.shim_program.clone()];
        let directories = [self.config.root.clone(), self.config.state.clone()];
        let found = blocking(move || look_at_disk(&programs, &directories)).await;
        if !found.ready || self.cgroups.driver() != Driver::Systemd {
            return found;
        }
        match self.cgroups.ping().await {
            Ok(()) => found,
            Err(error) => Readiness::not("SystemdNotUsable", holdfast_model::chain(&error)),
        }
    }
}

fn look_at_disk(programs: &[PathBuf], directories: &[PathBuf]) -> Readiness {
    for program in programs {
        let is_program = |file: fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
        match fs::metadata(program).map(is_program) {
            Ok(true) => {}
            Ok(false) => {
                return Readiness::not("ProgramMissing", format!("{} cannot be executed", program.display()));
            }
            Err(error) => {
                return Readiness::not("ProgramMissing", format!("{}: {error}", program.display()));
            }
        }
    }
    for directory in directories {
        if let Err(error) = write_probe(directory) {
            return Readiness::not("RootNotUsable", format!("write to {}: {error}", directory.display()));
        }
    }
    Readiness::ready()
}

/// Writes and removes a file. That there is no room, or no descriptor for a moment, says nothing of the directory.
fn write_probe(directory: &Path) -> io::Result<()> {
    let path = directory.join(PROBE);
    let written = fs::write(&path, "holdfast");
    let removed = fs::remove_file(&path);
    let busy = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    match written.and(removed) {
        Err(error) if error.raw_os_error().is_some_and(|errno| busy.contains(&errno)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_program_or_directory_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("holdfast-shim");
        let look = || look_at_disk(std::slice::from_ref(&program), &[dir.path().join("root")]);
        assert_eq!(look().reason, "ProgramMissing");
        fs::write(&program, "").unwrap();
        assert!(look().message.contains("cannot be executed"), "{:?}", look());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(look().reason, "RootNotUsable");
        fs::create_dir(dir.path().join("root")).unwrap();
        assert_eq!(look(), Readiness::ready());
        assert_eq!(fs::read_dir(dir.path().join("root")).unwrap().count(), 0);
    }

    #[test]
    fn a_change_is_seen_once() {
        let last = LastLook::default();
        let not = Readiness::not("RootNotUsable", "read-only".into());
        assert_eq!([last.set(&not), last.set(&not), last.set(&Readiness::ready())], [true, false, true]);
    }
}
