//! An agent with directories, a socket, a bridge and cgroups of its own.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{crictl::Crictl, place, process::Process, registry::write_mirror, wait};

/// What distinguishes one agent from another.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its program.
    pub program: PathBuf,
    /// Directory that everything of it lies in.
    pub dir: PathBuf,
    /// Parent of its cgroups, as the driver names it.
    pub cgroup_parent: String,
    /// "cgroupfs" or "systemd".
    pub cgroup_driver: &'static str,
    /// More lines of TOML for the top.
    pub more: String,
    /// More lines for the table `image`.
    pub image: String,
    /// More lines for the table `runtime`.
    pub runtime: String,
    /// The `[network] mode`; `None`: the program's own default.
    pub network_mode: Option<&'static str>,
    /// The `[network.cni] bin_dirs`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Mirrors in the form of hosts.toml: host name and the server that stands in for it.
    pub mirrors: Vec<(String, String)>,
    /// Environment that each start adds.
    pub environment: Vec<(String, String)>,
}

impl Settings {
    /// For an agent in `dir`; `number` keeps it apart from others.
    pub fn new(dir: &Path, number: u32) -> Self {
        let systemd = Path::new("/run/systemd/system").exists();
        let name = format!("holdfaste2e{}x{number}", std::process::id());
        Self {
            program: place::holdfast(),
            dir: dir.to_owned(),
            cgroup_parent: if systemd { format!("{name}.slice") } else { format!("/{name}") },
            cgroup_driver: if systemd { "systemd" } else { "cgroupfs" },
            more: String::new(),
            image: String::new(),
            runtime: String::new(),
            network_mode: Some("auto"),
            cni_bin_dirs: vec![place::cni_plugins()],
            mirrors: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The `root` key.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The `state` key.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The `listen` key.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.state().join("holdfast.sock")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The `[cdi] spec_dirs`.
    pub fn cdi_spec_dirs(&self) -> [PathBuf; 2] {
        ["cdi-static", "cdi-dynamic"].map(|name| self.dir.join(name))
    }

    /// The `[network.cni] conf_dir`.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir.join("net.d")
    }

    /// Name of the bridge and of the nftables table.
    pub const BRIDGE: &str = "hfe2e0";

    /// Writes the configuration and the mirrors.
    pub fn write(&self) -> Result<()> {
        let hosts = self.dir.join("certs.d");
        fs::create_dir_all(self.cni_conf_dir()).context("make the CNI directory")?;
        for (name, server) in &self.mirrors {
            write_mirror(&hosts, name, server)?;
        }
        let mode = self.network_mode.map(|mode| format!("[network]\nmode = \"{mode}\"\n"));
        let text = format!(
            "root = \"{}\"\nstate = \"{}\"\nlisten = \"{}\"\ncgroup_driver = \"{}\"\ndefault_cgroup_parent = \"{}\"\n\
             log_level = \"debug\"\n{}\n[image]\nregistry_config_dir = \"{}\"\n{}\n{}[network.cni]\nconf_dir = \"{}\"\n\
             bin_dirs = {:?}\n[runtime]\n{}\n[cdi]\nspec_dirs = {:?}\n[network.embedded]\nbridge = \"{}\"\nsubnets = [\"10.213.0.0/24\", \"fd68:6f6c:6401::/64\"]\n",
            self.root().display(),
            self.state().display(),
            self.endpoint(),
            self.cgroup_driver,
            self.cgroup_parent,
            self.more,
            hosts.display(),
            self.image,
            mode.unwrap_or_default(),
            self.cni_conf_dir().display(),
            self.cni_bin_dirs,
            self.runtime,
            self.cdi_spec_dirs(),
            Self::BRIDGE,
        );
        fs::write(self.config(), text).context("write the agent's configuration")
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// What it was started with.
    pub settings: Settings,
    process: Option<Process>,
}

impl Agent {
    /// Writes the configuration and starts it.
    pub fn start(settings: Settings) -> Result<Self> {
        settings.write()?;
        let mut agent = Self { settings, process: None };
        agent.start_again()?;
        Ok(agent)
    }

    /// A command of the same programs and configuration.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.settings.program);
        command.args(args).arg("--config").arg(self.settings.config());
        command.envs(self.settings.environment.iter().cloned());
        command
    }

    /// Starts it after a stop or a kill, and waits until it serves.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the agent runs already");
        let log =
            fs::File::options().create(true).append(true).open(self.log()).context("open the agent's log")?;
        let mut command = self.command(&["serve"]);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().context("open the agent's log")?).stderr(log);
        let mut process = Process::spawn(&mut command)?;
        let crictl = self.crictl();
        let served = wait::until("the agent's socket", wait::LIMIT, || {
            if let Some(status) = process.ended()? {
                return Ok(Some(Err(status)));
            }
            if UnixStream::connect(self.settings.socket()).is_err() {
                return Ok(None);
            }
            Ok(crictl.ok(&["version"]).is_ok().then_some(Ok(())))
        });
        let served = served.with_context(|| self.last_words())?;
        if let Err(status) = served {
            anyhow::bail!("holdfast serve ended with {status}: {}", self.last_words());
        }
        self.process = Some(process);
        Ok(())
    }

    /// A client of it.
    pub fn crictl(&self) -> Crictl {
        Crictl::new(&self.settings.endpoint())
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// SIGKILL, without a word.
    pub fn kill9(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("no agent runs")?;
        process.signal(Signal::SIGTERM)?;
        process.end(wait::LIMIT)
    }

    /// Starts it again if it has died by itself; whether it had.
    pub fn revive(&mut self) -> Result<bool> {
        let died = match &mut self.process {
            Some(process) => process.ended()?.is_some(),
            None => true,
        };
        if died {
            self.process = None;
            self.start_again()?;
        }
        Ok(died)
    }

    /// A signal that does not end it.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("no agent runs")?.signal(signal)
    }

    /// kill -9 and a new start.
    pub fn crash(&mut self) -> Result<()> {
        self.kill9()?;
        self.start_again()
    }

    /// Where it logs.
    pub fn log(&self) -> PathBuf {
        self.settings.dir.join("agent.log")
    }

    /// The end of its log, for errors.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        format!("the agent's log ends with\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}
