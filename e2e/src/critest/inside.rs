//! The inner process: a registry, an agent, and critest.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};
use holdfast_e2e::{Agent, agent::Settings, place, process, registry::Registry};

use crate::{benchmarks, flags, progress};

/// ginkgo's report.
pub const REPORT: &str = "critest.json";
/// What critest printed.
pub const LOG: &str = "critest.log";
/// What the agent logged.
pub const AGENT_LOG: &str = "critest-agent.log";

/// The first argument of the inner process.
const MARK: &str = "--inside";
/// The registries that critest names.
const REGISTRIES: &[&str] = &["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "public.ecr.aws"];

/// What the inner process is told.
pub struct Inside {
    /// The run's directory.
    pub dir: PathBuf,
    /// Parent of the agent's cgroups.
    pub cgroup: String,
    /// Arguments of critest.
    pub args: Vec<String>,
}

impl Inside {
    /// Reads what `to_args` wrote; `None` in the outer process.
    pub fn from_args(args: &[String]) -> Option<Self> {
        match args {
            [mark, dir, cgroup, args @ ..] if mark == MARK => {
                Some(Self { dir: PathBuf::from(dir), cgroup: cgroup.clone(), args: args.to_vec() })
            }
            _ => None,
        }
    }

    /// The inner process's command line.
    pub fn to_args(&self) -> Vec<OsString> {
        let head = [MARK.into(), self.dir.clone().into(), self.cgroup.clone().into()];
        head.into_iter().chain(self.args.iter().map(OsString::from)).collect()
    }

    /// Runs critest; whether it ended with 0.
    pub fn run(&self) -> Result<bool> {
        let tmp = self.dir.join("tmp");
        fs::create_dir(&tmp).context("make critest's directory")?;
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).context("open critest's directory")?;
        println!("==> starting a registry and an agent");
        let registry = Registry::with_images(&place::critest_images(), &self.dir)?;
        let mut settings = Settings::new(&self.dir, 0);
        settings.cgroup_parent.clone_from(&self.cgroup);
        let mirror = |host: &&str| ((*host).to_owned(), registry.address.clone());
        settings.mirrors = REGISTRIES.iter().map(mirror).collect();
        let mut agent = Agent::start(settings)?;
        let success = self.critest(&agent, &tmp);
        let stopped = agent.stop();
        let logs = place::cache().join("logs");
        fs::copy(agent.log(), logs.join(AGENT_LOG)).context("keep the agent's log")?;
        // There is none after -version, or when critest died.
        if let Some(report) = report(&tmp) {
            fs::copy(report, logs.join(REPORT)).context("keep critest's report")?;
        }
        stopped.context("stop the agent")?;
        success
    }

    fn critest(&self, agent: &Agent, tmp: &Path) -> Result<bool> {
        let logs = place::cache().join("logs");
        let mut args = self.args.clone();
        args.extend(benchmarks::flags(&self.args, tmp, &logs)?);
        println!("==> critest {}", args.join(" "));
        let log = fs::File::create(logs.join(LOG)).context("create critest's log")?;
        let (output, input) = std::io::pipe().context("make a pipe")?;
        let mut command = Command::new(place::critest());
        command.arg(format!("-runtime-endpoint={}", agent.settings.endpoint()));
        command.arg(format!("-ginkgo.json-report={}", tmp.join(REPORT).display())).arg("-ginkgo.no-color");
        // For the progress. critest asks for succinct output itself when it measures, and ginkgo refuses both.
        if !flags::has(&args, benchmarks::FLAG) {
            command.arg("-ginkgo.v");
        }
        command.args(&args).env("TMPDIR", tmp).env("PATH", path()?);
        command.stdin(Stdio::null()).stdout(input.try_clone().context("copy a pipe")?).stderr(input);
        let mut critest = process::Process::spawn(&mut command)?;
        // Closes our own ends, so that the output comes to an end.
        drop(command);
        let reader = thread::spawn(move || progress::follow(output, log));
        let status = critest.wait()?;
        reader.join().map_err(|_| anyhow!("the reader of critest's output panicked"))??;
        Ok(status.success())
    }
}

/// The tools first: critest calls ginkgo for `-parallel`.
fn path() -> Result<OsString> {
    let tools = place::cache().join("tools");
    let old = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(tools).chain(std::env::split_paths(&old));
    std::env::join_paths(dirs).context("put the tools into PATH")
}

/// Where it was asked for; with `-parallel`, ginkgo takes that for a path below the directory that it ran in.
fn report(tmp: &Path) -> Option<PathBuf> {
    let asked = tmp.join(REPORT);
    let relative = asked.strip_prefix("/").unwrap_or(&asked);
    let below = fs::read_dir(tmp).into_iter().flatten().flatten().map(|entry| entry.path().join(relative));
    std::iter::once(asked.clone()).chain(below).find(|path| path.is_file())
}
