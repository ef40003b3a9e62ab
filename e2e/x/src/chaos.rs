//! `cargo x chaos`: faults under churn, on an agent of its own and, with `--peer`, on containerd as well.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::{containerd, place::Place, run::verdict, test, work::Work};

/// What `cargo x chaos` is told.
#[derive(Debug, Args)]
pub struct Options {
    /// How often the agent is killed.
    #[arg(long, default_value_t = 300)]
    pub kills: u64,
    /// Decides what clients call and when faults come; another one each time if it is
    /// not given.
    #[arg(long, verbatim_doc_comment)]
    pub seed: Option<u64>,
    /// Clients at work.
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Which faults: agent, all, or others that docs/reliability.md lists.
    #[arg(long, value_delimiter = ',', default_value = "agent")]
    pub fault: Vec<String>,
    /// How much of a fault but `agent`: rounds, seconds or execs.
    #[arg(long)]
    pub amount: Option<u64>,
    /// Do the same to containerd, which is built from its Go module, and show both side
    /// by side.
    #[arg(long, verbatim_doc_comment)]
    pub peer: bool,
    /// Let the faults meet a release build.
    #[arg(long)]
    pub release: bool,
}

impl Options {
    /// For the harness.
    fn args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--kills={}", self.kills),
            format!("--clients={}", self.clients),
            format!("--fault={}", self.fault.join(",")),
        ];
        args.extend(self.seed.map(|seed| format!("--seed={seed}")));
        args.extend(self.amount.map(|amount| format!("--amount={amount}")));
        args
    }
}

/// Prepares, builds, and runs the harness. Its exit code is 0 only if nothing was lost, wrong or left.
pub fn chaos(work: &Work, options: &Options) -> Result<ExitCode> {
    let mut run = test::harness(work, "holdfast-chaos", options.release, &options.args())?;
    run.arg("--logs").arg(work.dir("chaos")?);
    let peer = if options.peer { Some(describe(work)?) } else { None };
    if let Some((_, description)) = &peer {
        run.arg("--peer-description").arg(description);
    }
    let code = verdict(&mut run)?;
    if let Some((place, _)) = peer {
        place.remove()?;
    }
    Ok(code)
}

/// Configures containerd, and writes down how it is started and where it is.
fn describe(work: &Work) -> Result<(Place, PathBuf)> {
    containerd::build(work)?;
    let place = containerd::configure(work, "chaos")?;
    let tools = work.tools().join("containerd");
    let description = json!({
        "name": format!("containerd {}", containerd::VERSION),
        "command": [tools.join("containerd"), "--config", place.config()],
        "path": tools,
        "socket": place.socket(),
        "directories": containerd::directories(&place),
        "mirrors": containerd::mirrors(&place),
        "cgroup_parent": place.cgroup_parent(),
    });
    let path = place.root().join("peer.json");
    fs::write(&path, description.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok((place, path))
}
