//! Short runs of the faults, against our own agent: nothing is lost, wrong or left. `cargo x chaos` runs longer ones.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use holdfast_chaos::{
    faults::{self, Fault, Options},
    report::table,
    stage::{Setup, own_namespaces},
};
use holdfast_e2e::{place, scene};

static TURN: Mutex<()> = Mutex::new(());

/// The seed of every day: what fails must fail again.
const SEED: u64 = 1;

/// One fault to a clean report.
fn clean(fault: Fault, kills: u64, amount: Option<u64>) -> Result<()> {
    if place::endpoint().is_some() {
        println!("SKIP: another runtime's endpoint was given, and this test is about ours");
        return Ok(());
    }
    if let Some(reason) = scene::missing()? {
        println!("SKIP: {reason}");
        return Ok(());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    own_namespaces()?;
    let slowness = u64::from(place::slowness());
    let options = Options {
        kills: kills.div_ceil(slowness),
        seed: SEED,
        clients: 8,
        amount: amount.map(|amount| amount.div_ceil(slowness)),
    };
    let events: PathBuf = place::cache().join(format!("logs/chaos-{fault}.jsonl"));
    let setup = Setup { events: events.clone(), ..Setup::default() };
    let report = faults::run_blocking(fault, &setup, &options)?;
    print!("{}", table(std::slice::from_ref(&report)));
    ensure!(
        report.is_clean(),
        "{}the log of events is {}; replay: cargo x chaos --fault {fault} --seed {SEED} --kills {}{}",
        report.details(),
        events.display(),
        options.kills,
        options.amount.map(|amount| format!(" --amount {amount}")).unwrap_or_default()
    );
    Ok(())
}

#[test]
fn the_agent_is_killed_under_churn() -> Result<()> {
    clean(Fault::Agent, 300, None)
}

#[test]
fn shims_are_killed() -> Result<()> {
    clean(Fault::Shim, 0, Some(6))
}

#[test]
fn holders_are_killed() -> Result<()> {
    clean(Fault::Holder, 0, Some(6))
}

#[test]
fn the_disk_is_full() -> Result<()> {
    clean(Fault::Disk, 0, Some(2))
}

#[test]
fn descriptors_are_short() -> Result<()> {
    clean(Fault::Descriptors, 0, Some(3))
}

#[test]
fn processes_are_short() -> Result<()> {
    clean(Fault::Pids, 0, Some(3))
}

#[test]
fn containers_fork_without_end() -> Result<()> {
    clean(Fault::ForkBomb, 0, Some(3))
}

#[test]
fn containers_run_out_of_memory() -> Result<()> {
    clean(Fault::Oom, 0, Some(2))
}

#[test]
fn a_volume_hangs() -> Result<()> {
    clean(Fault::Fuse, 0, None)
}

#[test]
fn a_plugin_hangs() -> Result<()> {
    clean(Fault::Plugin, 0, None)
}

#[test]
fn a_log_is_flooded_and_rotated() -> Result<()> {
    clean(Fault::Logs, 0, Some(100_000))
}

#[test]
fn many_short_execs() -> Result<()> {
    clean(Fault::Execs, 0, Some(500))
}
