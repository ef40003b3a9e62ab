//! An agent that runs.

use std::{
    env,
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_chaos::wire::Cri;
use holdfast_cri::v1::VersionRequest;
use holdfast_e2e::{agent::Settings, place, process::Process};

use crate::site::Site;

/// Longest wait until it serves.
const LIMIT: Duration = Duration::from_secs(20);

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Agent {
    /// A client of it.
    pub cri: Cri,
    process: Process,
    settings: Settings,
}

impl Agent {
    /// Starts one with an empty log, and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not serve.
    pub async fn start(site: &Site) -> Result<Self> {
        let settings = &site.settings;
        let log = File::create(settings.dir.join("agent.log")).context("create the agent's log")?;
        let mut command = program(site)?;
        command.arg("serve").arg("--config").arg(settings.config());
        command.envs(settings.environment.iter().cloned());
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().context("open the agent's log")?).stderr(log);
        let process = Process::spawn(&mut command)?;
        let mut agent = Self { cri: Cri::to(&settings.socket()), process, settings: settings.clone() };
        let deadline = Instant::now() + LIMIT * place::slowness();
        while agent.cri.runtime.version(VersionRequest::default()).await.is_err() {
            if let Some(status) = agent.process.ended()? {
                bail!("the agent ended with {status}: {}", agent.last_words());
            }
            ensure!(Instant::now() < deadline, "the agent does not serve: {}", agent.last_words());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(agent)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.settings.dir.join("agent.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The agent, or this program, which becomes the agent.
fn program(site: &Site) -> Result<Command> {
    let Some(lie) = site.lie else { return Ok(Command::new(&site.settings.program)) };
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command.arg("lie").arg(lie.to_string()).arg("--").arg(&site.settings.program);
    Ok(command)
}
