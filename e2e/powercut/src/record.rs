//! Recording: an agent works on a disk that logs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use holdfast_chaos::wire::Cri;
use holdfast_e2e::process::stdout;
use serde::{Deserialize, Serialize};

use crate::{
    agent::Agent,
    device::{FileSystem, Logged, Mounted},
    journal::{Journal, Writer},
    lie::Lie,
    log,
    reference::Reference,
    site::Site,
    workload::{COMING_AND_GOING, Clients, Pods, pull, remove_image},
};

/// Starts of an agent within a recording, every other one after a boot: what an agent leaves undone when it is killed, and
/// what it writes when it starts, may be lost with the next cut.
const LIVES: u32 = 4;

/// Parameters of a recording.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// On which file system.
    pub kind: FileSystem,
    /// Decides what is done.
    pub seed: u64,
    /// Length of the run.
    pub duration: Duration,
    /// Calls that do nothing.
    pub lie: Option<Lie>,
}

/// A recording, but for its log of writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    /// No cut comes before this entry of the log.
    pub first: u64,
    /// The agent's answers.
    pub journal: Journal,
    /// Content of the layers.
    pub reference: Reference,
}

/// The log of writes in a recording's directory.
pub fn log_in(dir: &Path) -> PathBuf {
    dir.join("writes.log")
}

fn description(dir: &Path) -> PathBuf {
    dir.join("recording.json")
}

impl Recording {
    /// Works, and keeps what is needed to play it in `dir`.
    ///
    /// # Errors
    /// A call of the workload fails, or the disk cannot be made.
    pub async fn make(dir: &Path, plan: &Plan) -> Result<Self> {
        let site = Site::new(plan.lie)?;
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let log = log_in(dir);
        let disk = Logged::start(site.dir(), &log)?;
        let mounted = Mounted::make(plan.kind, &disk.disk, &site.root())?;
        let recorded = Box::pin(Self::work(&site, &log, plan)).await;
        let agent_log = site.dir().join("agent.log");
        if recorded.is_err() && agent_log.exists() {
            fs::copy(&agent_log, dir.join("agent.log")).context("keep an agent's log")?;
        }
        let swept = site.sweep();
        let recording = recorded?;
        swept?;
        mounted.close()?;
        drop(disk);
        let text = serde_json::to_vec(&recording).context("write down a recording")?;
        fs::write(description(dir), text).context("write down a recording")?;
        Ok(recording)
    }

    async fn work(site: &Site, log: &Path, plan: &Plan) -> Result<Self> {
        let mut agent = Agent::start(site).await?;
        let reference = reference(&agent.cri, site).await?;
        let first = log::position(log)?;
        let writer = Writer::new(log);
        let mut pods = Pods::default();
        for life in 0..LIVES {
            if life > 0 {
                agent.kill()?;
            }
            if life > 0 && life % 2 == 0 {
                site.sweep()?;
                // Which unmounts, and so flushes.
                stdout("sync", ["--file-system".as_ref(), site.root().as_os_str()])?;
                site.boot(life as usize)?;
            }
            if life > 0 {
                agent = Agent::start(site).await?;
            }
            let logs = site.dir().join("logs");
            let clients = Clients::new(&agent.cri, &writer, logs, u64::from(life), plan.duration / LIVES);
            pods = Box::pin(clients.work(plan.seed, pods)).await?;
        }
        agent.kill()?;
        Ok(Self { first, journal: writer.done(), reference })
    }

    /// Reads one that was made before.
    ///
    /// # Errors
    /// It is not there, or of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = description(dir);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }
}

/// Pulls everything once, reads it, and removes it again.
async fn reference(cri: &Cri, site: &Site) -> Result<Reference> {
    let names = COMING_AND_GOING.into_iter().chain([holdfast_e2e::scene::BUSYBOX]);
    for name in names.clone() {
        pull(cri, name).await?;
    }
    let reference = Reference::of(&site.store())?;
    for name in names {
        remove_image(cri, name).await?;
    }
    Ok(reference)
}
