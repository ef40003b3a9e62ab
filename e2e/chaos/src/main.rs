//! `holdfast-chaos`: what `cargo x chaos` runs.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use holdfast_chaos::{
    daemon::Peer,
    faults::{self, Fault, Options},
    report::{Report, table},
    stage::{Setup, own_namespaces},
};

/// Lets faults happen under churn, and tells what was lost, wrong or left.
#[derive(Debug, Parser)]
#[command(name = "cargo x chaos", bin_name = "cargo x chaos")]
struct Arguments {
    /// How often the daemon is killed.
    #[arg(long, default_value_t = 300)]
    kills: u64,
    /// Decides what clients call and when faults come; another one each time if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients at work.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Which faults.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "agent")]
    fault: Vec<Fault>,
    /// How much of a fault but `agent`: rounds, or execs.
    #[arg(long)]
    amount: Option<u64>,
    /// The description of another runtime that is put to the same.
    #[arg(long, hide = true)]
    peer_description: Option<PathBuf>,
    /// Directory of the log of events and of the report.
    #[arg(long, default_value = "target/x/chaos")]
    logs: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo x chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether ours was clean.
fn run(arguments: &Arguments) -> Result<bool> {
    own_namespaces()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let options =
        Options { kills: arguments.kills, seed, clients: arguments.clients, amount: arguments.amount };
    let peer: Option<Peer> = match &arguments.peer_description {
        None => None,
        Some(path) => {
            let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            Some(serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?)
        }
    };
    fs::create_dir_all(&arguments.logs).with_context(|| format!("make {}", arguments.logs.display()))?;
    let mut clean = true;
    let mut all: Vec<Report> = Vec::new();
    for fault in Fault::expand(&arguments.fault) {
        let mut reports = Vec::new();
        for peer in [None].into_iter().chain(peer.clone().map(Some)) {
            if peer.is_some() && !fault.is_for_any_runtime() {
                continue;
            }
            let name = format!("{fault}-{}-{seed}", if peer.is_some() { "peer" } else { "holdfast" });
            println!("==> {name}: replay with cargo x chaos {}", replay(arguments, fault, seed));
            let events = arguments.logs.join(format!("{name}.jsonl"));
            let setup = Setup { peer, events, ..Setup::default() };
            let report = faults::run_blocking(fault, &setup, &options)?;
            print!("{}", report.details());
            reports.push(report);
        }
        print!("{}", table(&reports));
        clean &= reports.first().is_none_or(Report::is_clean);
        all.extend(reports);
    }
    let report = arguments.logs.join(format!("report-{seed}.json"));
    fs::write(&report, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("write {}", report.display()))?;
    println!("\nreport: {}; logs of events beside it", report.display());
    for dirty in all.iter().filter(|report| !report.is_clean()) {
        let found = dirty.sums.findings.len() + dirty.failed_starts.len();
        let left = holdfast_chaos::left::count(&dirty.left);
        println!("{}, {}: {found} wrong, {left} left, seed {seed}", dirty.runtime, dirty.fault);
    }
    Ok(clean)
}

/// The arguments that give the same calls and the same faults.
fn replay(arguments: &Arguments, fault: Fault, seed: u64) -> String {
    let amount = arguments.amount.map(|amount| format!(" --amount {amount}")).unwrap_or_default();
    format!(
        "--fault {fault} --seed {seed} --kills {} --clients {}{amount}",
        arguments.kills, arguments.clients
    )
}
