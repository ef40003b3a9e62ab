//! Restarts: from the start of the daemon's program until it has answered for everything that runs.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Options,
    client::{Client, Pair},
    figure::{Figure, milliseconds},
    memory,
};

/// Longest wait until the daemon serves, or has ended.
const LIMIT: Duration = Duration::from_mins(2);
/// Pause between two attempts to be answered.
const PAUSE: Duration = Duration::from_micros(500);

/// A child process that serves CRI. SIGKILL when it is dropped, so that an error leaves none behind.
struct Daemon(Child);

impl Daemon {
    fn start(command: &[String]) -> Result<Self> {
        let (program, args) = command.split_first().context("no command of the daemon after --")?;
        let mut spawn = Command::new(program);
        // Its log is the standard error of this program.
        spawn.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(spawn.spawn().with_context(|| format!("start {program}"))?))
    }

    /// SIGTERM, and waits for its end. What it runs goes on. Not by sleeping in the thread: the client's connection has to hear
    /// that the daemon goes.
    async fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).context("a pid")?;
        // It is not reaped before the loop below, so the number is still its own.
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("end the daemon")?;
        let deadline = Instant::now() + LIMIT;
        while self.0.try_wait().context("wait for the daemon")?.is_none() {
            ensure!(Instant::now() < deadline, "the daemon does not end");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A client, as soon as it serves.
    async fn client(&mut self, options: &Options) -> Result<Client> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let error = match Client::connect(options).await {
                Ok(mut client) => match client.version().await {
                    Ok(()) => return Ok(client),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let ended = self.0.try_wait().context("wait for the daemon")?;
            ensure!(ended.is_none(), "the daemon has ended: {ended:?}");
            ensure!(Instant::now() < deadline, "the daemon does not serve: {error:#}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the daemon, makes pods with one container each, restarts it `restarts` times, and removes the pods.
pub async fn measure(options: &Options, restarts: usize) -> Result<Vec<Figure>> {
    let mut daemon = Daemon::start(&options.daemon)?;
    let mut client = daemon.client(options).await?;
    let mut pairs = Vec::new();
    let mut measured = memory::fill(&mut client, options.pods, &mut pairs).await;
    let (mut answers, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..restarts {
        if measured.is_ok() {
            measured = restart(&mut daemon, options, &mut client, &mut answers, &mut ready).await;
        }
    }
    remove(&mut client, &pairs).await?;
    daemon.stop().await?;
    measured?;
    let pods = options.pods;
    let figures = [
        Figure::step(format!("restart to first answer, {pods} pods"), answers),
        Figure::step(format!("restart to ready, {pods} pods"), ready),
    ];
    Ok(figures.into_iter().flatten().collect())
}

/// Ready: Version is answered, Status tells a ready runtime, and the lists have every pod READY and every container
/// RUNNING.
async fn restart(
    daemon: &mut Daemon,
    options: &Options,
    client: &mut Client,
    answers: &mut Vec<f64>,
    ready: &mut Vec<f64>,
) -> Result<()> {
    daemon.stop().await?;
    let begin = Instant::now();
    *daemon = Daemon::start(&options.daemon)?;
    *client = daemon.client(options).await?;
    answers.push(milliseconds(begin));
    while !client.all_is_well(options.pods).await? {
        ensure!(begin.elapsed() < LIMIT, "not everything runs after a restart");
        tokio::time::sleep(PAUSE).await;
    }
    ready.push(milliseconds(begin));
    Ok(())
}

async fn remove(client: &mut Client, pairs: &[Pair]) -> Result<()> {
    for pair in pairs {
        client.end_container(&pair.container).await?;
        client.end_pod(&pair.pod).await?;
    }
    Ok(())
}
