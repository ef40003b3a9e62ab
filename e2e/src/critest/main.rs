//! `holdfast-critest`, which `cargo x critest` becomes: runs critest against an agent of its own and says how it went.
//!
//! It is two processes. The outer one makes namespaces and a directory, waits, and, whatever ended the run, ends and
//! removes all that is left. The inner one starts a registry, an agent and critest. So neither a Ctrl-C nor a fault of
//! the inner one leaves anything; and the outer one can block the signals that it waits for, a mask that its children
//! inherit and only a program of ours takes off again.
//!
//! Network and IPC namespace are the run's own: host ports and the bridge meet nobody else's, and the shared memory
//! that some specs leave behind goes with them.

mod benchmarks;
mod flags;
mod inside;
mod interrupt;
mod progress;
mod report;
mod whole;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use holdfast_e2e::{agent::Settings, oracle::Scope, place, process, process::Process, scene};

use inside::Inside;
use interrupt::Interrupt;
use report::Report;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Inside::from_args(&args) {
        Some(inside) => interrupt::allow().and_then(|()| inside.run()),
        None => critest(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo x critest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed.
fn critest(args: &[String]) -> Result<bool> {
    // Before there is any other thread: they inherit that the signals are blocked.
    let interrupt = Interrupt::watch()?;
    process::become_reaper()?;
    scene::own_network()?;
    scene::own_ipc()?;
    let logs = logs()?;
    let temp = tempfile::Builder::new().prefix("hf-critest-").tempdir_in("/var/tmp");
    let temp = temp.context("make a directory")?;
    // Containers with users of their own look into directories below.
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).context("open the directory")?;
    let cgroup = Settings::new(temp.path(), 0).cgroup_parent;
    let inside = Inside { dir: temp.path().to_owned(), cgroup: cgroup.clone(), args: args.to_vec() };

    let ended = run(&inside, &interrupt);
    let swept = sweep(temp.path(), cgroup);
    let removed = temp.close().context("remove the run's directory");
    let success = ended?;
    swept.and(removed)?;

    let report = logs.join(inside::REPORT);
    let mut report = if report.is_file() { Report::read(&report, success)? } else { Report::none(success) };
    if let Some(wanted) = whole::expected(args, whole::has_apparmor()) {
        report.expect(wanted);
    }
    report.print();
    println!("    critest's log: {}", logs.join(inside::LOG).display());
    println!("    agent's log:   {}", logs.join(inside::AGENT_LOG).display());
    let results = logs.join(benchmarks::RESULTS);
    if results.is_dir() {
        println!("    results:       {}", results.display());
    }
    println!("{}", report.counts());
    Ok(report.success())
}

/// Runs the inner process to its end; whether it ended with 0.
fn run(inside: &Inside, interrupt: &Interrupt) -> Result<bool> {
    let itself = std::env::current_exe().context("find this program")?;
    let mut inner = Process::spawn(Command::new(itself).args(inside.to_args()))?;
    Ok(interrupt.until_end(&mut inner)?.success())
}

/// Ends and removes what is left: shims and holders of pods that a failed spec kept, mounts, cgroups.
fn sweep(dir: &Path, cgroup: String) -> Result<()> {
    let left = process::descendants().into_iter().filter(|process| process.state != 'Z').count();
    if left > 0 {
        println!("    ending {left} processes that the run left");
    }
    let ended = process::end_descendants();
    Scope { dir: dir.to_owned(), cgroup: Some(cgroup), ..Scope::default() }.sweep();
    ended
}

/// Where logs and the report stay; those of an earlier run are taken away.
fn logs() -> Result<PathBuf> {
    let logs = place::cache().join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    for name in [inside::REPORT, inside::LOG, inside::AGENT_LOG] {
        let _ = fs::remove_file(logs.join(name));
    }
    let _ = fs::remove_dir_all(logs.join(benchmarks::RESULTS));
    Ok(logs)
}
