//! Directories, a bridge and cgroups for an agent that the demo or the benchmark runs, so that it meets no agent of
//! this machine; and their end.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{run::command, work::Work};

/// Where an agent of ours lives for a while.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    state: PathBuf,
    cgroup: String,
}

impl Place {
    /// Makes the directories and the configuration. `name` is a short word.
    pub fn make(work: &Work, name: &str) -> Result<Self> {
        let place = Self::bare(work, name)?;
        fs::write(place.config(), place.text()).context("write a configuration")?;
        Ok(place)
    }

    /// Makes the directories.
    pub fn bare(work: &Work, name: &str) -> Result<Self> {
        let root = work.dir(&format!("{name}-{}", process::id()))?;
        // Sockets have short names: not under a target directory that may lie deep.
        let state = PathBuf::from(format!("/run/holdfast-{name}-{}", process::id()));
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        Ok(Self { root, state, cgroup: format!("holdfast{name}") })
    }

    /// For what is large.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// For sockets and state.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The pods' parent cgroup, in the words of the driver that fits this machine.
    pub fn cgroup_parent(&self) -> String {
        if has_systemd() { format!("{}.slice", self.cgroup) } else { format!("/{}", self.cgroup) }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("holdfast.sock")
    }

    /// Where the agent may log.
    pub fn log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    /// A command of `program`, the agent's, in a network namespace of its own: the bridge and the rules go with it, and
    /// no address of the host is in the way.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut unshare = command("unshare", ["--net", "--"]);
        unshare.arg(program).args(args).arg("--config").arg(self.config());
        unshare
    }

    /// Removes all that is left.
    pub fn remove(&self) -> Result<()> {
        for dir in [&self.root, &self.state] {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        let top = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([top.to_owned()]) {
            // Gone already, or no cgroup at all: all the same here.
            let _ = fs::remove_dir(hierarchy.join(&self.cgroup));
            let _ = fs::remove_dir(hierarchy.join(format!("{}.slice", self.cgroup)));
        }
        Ok(())
    }

    fn text(&self) -> String {
        format!(
            "root = \"{}\"\nstate = \"{state}\"\nlisten = \"unix://{socket}\"\nlog_level = \"warn\"\n\
             default_cgroup_parent = \"{}\"\n\
             [network]\nmode = \"embedded\"\n\
             [network.embedded]\nbridge = \"hfx0\"\nsubnets = [\"10.213.0.0/20\", \"fd68:6f6c:6407::/64\"]\n",
            self.root.join("data").display(),
            self.cgroup_parent(),
            state = self.state.display(),
            socket = self.socket().display(),
        )
    }
}

/// Time that a runtime may take until it serves.
const START: Duration = Duration::from_secs(30);

/// Waits until somebody listens.
pub fn serves(child: &mut Child, socket: &Path, log: &Path) -> Result<()> {
    let deadline = Instant::now() + START;
    while UnixStream::connect(socket).is_err() {
        if child.try_wait().context("wait for the runtime")?.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            bail!("nothing serves at {}; see {}", socket.display(), log.display());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether systemd is this machine's first process, and cgroups are its.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// The PATH of a program that looks for others in `dir`.
pub fn path_with(dir: &Path) -> OsString {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    path
}
