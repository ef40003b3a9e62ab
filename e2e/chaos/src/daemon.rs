//! A runtime's daemon: ours, or containerd. Started, killed and started again; everything else is the caller's.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use holdfast_cri::v1;
use holdfast_e2e::{agent::Settings, process::Process};
use serde::Deserialize;
use tokio::time::sleep;

use crate::wire::{Cri, Outcome, outcome};

/// Longest wait for a started daemon to serve.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for one answer of it: then it is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A runtime that somebody else has configured, as `cargo x chaos --peer` describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// Its name and version, for the report.
    pub name: String,
    /// The daemon and its arguments.
    pub command: Vec<PathBuf>,
    /// Directory that its own helpers are looked for in first.
    pub path: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Directories that are its own, and made anew for each run.
    pub directories: Vec<PathBuf>,
    /// Directory that it looks for a `hosts.toml` of a registry in.
    pub mirrors: PathBuf,
    /// Parent of its pods' cgroups.
    pub cgroup_parent: String,
}

/// Which runtime.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Ours, with these settings.
    Ours(Box<Settings>),
    /// Another one.
    Peer(Peer),
}

impl Kind {
    /// For the report.
    pub fn name(&self) -> &str {
        match self {
            Self::Ours(_) => "holdfast",
            Self::Peer(peer) => &peer.name,
        }
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    /// Where it serves.
    pub fn socket(&self) -> PathBuf {
        match self {
            Self::Ours(settings) => settings.socket(),
            Self::Peer(peer) => peer.socket.clone(),
        }
    }

    /// Parent of its pods' cgroups.
    pub fn cgroup_parent(&self) -> &str {
        match self {
            Self::Ours(settings) => &settings.cgroup_parent,
            Self::Peer(peer) => &peer.cgroup_parent,
        }
    }

    /// Directories in which it keeps files.
    pub fn directories(&self) -> Vec<PathBuf> {
        match self {
            Self::Ours(settings) => vec![settings.root(), settings.state()],
            Self::Peer(peer) => peer.directories.clone(),
        }
    }

    /// The program that a container's first process descends from, as the kernel cuts its name.
    pub fn shim(&self) -> &'static str {
        if self.is_ours() { "holdfast-shim" } else { "containerd-shim" }
    }

    fn command(&self) -> Command {
        match self {
            Self::Ours(settings) => {
                let mut command = Command::new(&settings.program);
                command.args(["serve", "--config"]).arg(settings.config());
                command.envs(settings.environment.iter().cloned());
                command
            }
            Self::Peer(peer) => {
                let mut command = Command::new(&peer.command[0]);
                let path = std::env::var_os("PATH").unwrap_or_default();
                let path = [peer.path.as_os_str(), &path].join(std::ffi::OsStr::new(":"));
                command.args(&peer.command[1..]).env("PATH", path);
                command
            }
        }
    }
}

/// A daemon that runs or does not.
#[derive(Debug)]
pub struct Daemon {
    kind: Kind,
    log: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// One that does not run yet, and will log to `log`.
    pub fn new(kind: Kind, log: &Path) -> Self {
        Self { kind, log: log.to_owned(), process: None }
    }

    /// Which runtime it is.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Starts it, and does not wait.
    pub fn spawn(&mut self) -> Result<Instant> {
        let log =
            File::options().create(true).append(true).open(&self.log).context("open the daemon's log")?;
        let mut command = self.kind.command();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().context("open the daemon's log")?).stderr(log);
        let begin = Instant::now();
        self.process = Some(Process::spawn(&mut command)?);
        Ok(begin)
    }

    /// SIGKILL, and waits for its end. Whether it was still there.
    pub fn kill(&mut self) -> Result<bool> {
        let Some(mut process) = self.process.take() else { return Ok(false) };
        let lived = process.ended()?.is_none();
        process.kill()?;
        Ok(lived)
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Waits until it answers Version; the time since `begin`. An error if it ends before.
    pub async fn served(&mut self, begin: Instant) -> Result<Duration> {
        let socket = self.kind.socket();
        loop {
            if answers(&socket).await {
                return Ok(begin.elapsed());
            }
            let process = self.process.as_mut().context("no daemon runs")?;
            if let Some(status) = process.ended()? {
                bail!("the daemon ended with {status} before it served: {}", self.last_words());
            }
            if begin.elapsed() > START_LIMIT {
                bail!("the daemon does not serve after {} s: {}", START_LIMIT.as_secs(), self.last_words());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) -> Result<Duration> {
        let begin = self.spawn()?;
        self.served(begin).await
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

/// Whether somebody answers Version there.
pub async fn answers(socket: &Path) -> bool {
    if std::os::unix::net::UnixStream::connect(socket).is_err() {
        return false;
    }
    let mut cri = Cri::to(socket);
    let call = cri.runtime.version(v1::VersionRequest::default());
    matches!(outcome(call, ANSWER_LIMIT).await, Outcome::Answer(_))
}
