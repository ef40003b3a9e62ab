//! Surroundings of a run: namespaces and directories of its own, and a registry. Paths are the same in every run, since an
//! agent's records name them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use holdfast_e2e::{agent::Settings, oracle::Scope, process, registry::Registry, scene};
use nix::sched::{CloneFlags, unshare};

use crate::lie::Lie;

/// Everything lies here, on a tmpfs that only this run sees.
const HOME: &str = "/run/holdfast-powercut";
/// Hosts of images that the registry stands in for.
const HOSTS: [&str; 2] = ["registry.k8s.io", "holdfast.test"];

/// See the module.
#[derive(Debug)]
pub struct Site {
    /// Of the agents.
    pub settings: Settings,
    /// Calls of theirs that do nothing.
    pub lie: Option<Lie>,
    _registry: Registry,
}

/// A mount namespace for this thread and all that it makes, with an empty directory for a run in it.
///
/// # Errors
/// Those of unshare(2) and mount(8).
pub fn enter() -> Result<()> {
    process::become_reaper()?;
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    process::stdout("mount", ["--make-rslave", "/"])?;
    process::stdout("mount", ["--make-rshared", "/"])?;
    fs::create_dir_all(HOME).with_context(|| format!("make {HOME}"))?;
    process::stdout("mount", ["-t", "tmpfs", "-o", "size=3g,mode=755", "powercut", HOME]).map(drop)
}

impl Site {
    /// With a network of its own, as a machine has it that was just switched on.
    ///
    /// # Errors
    /// There is no network namespace, or no registry.
    pub fn new(lie: Option<Lie>) -> Result<Self> {
        scene::own_network()?;
        let registry = Registry::start(Path::new(HOME))?;
        let mut settings = Settings::new(Path::new(HOME), 0);
        let boot_id = settings.dir.join("boot-id");
        settings
            .environment
            .push(("HOLDFAST_TEST_BOOT_ID_FILE".to_owned(), boot_id.to_string_lossy().into_owned()));
        for host in HOSTS {
            settings.mirrors.push((host.to_owned(), registry.address.clone()));
        }
        settings.write()?;
        let site = Self { settings, lie, _registry: registry };
        site.boot(0)?;
        Ok(site)
    }

    /// Switches the machine on: what lies in /run is gone, and the boot has another id.
    ///
    /// # Errors
    /// A file cannot be written or removed.
    pub fn boot(&self, number: usize) -> Result<()> {
        let state = self.settings.state();
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))?;
        }
        fs::write(self.settings.dir.join("boot-id"), format!("00000000-0000-0000-0000-{number:012}\n"))
            .context("write a boot id")
    }

    /// The directory of the run.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Mount point of the disk.
    pub fn root(&self) -> PathBuf {
        self.settings.root()
    }

    /// The image store.
    pub fn store(&self) -> PathBuf {
        self.root().join("images")
    }

    /// Ends what an agent has left, and takes its groups away.
    ///
    /// # Errors
    /// Something does not end.
    pub fn sweep(&self) -> Result<()> {
        process::end_descendants()?;
        let scope = Scope {
            dir: self.settings.state(),
            cgroup: Some(self.settings.cgroup_parent.clone()),
            ..Scope::default()
        };
        scope.sweep();
        Ok(())
    }
}
