//! Two hundred power cuts, and the harness itself: a disk that lies is found out.

#![deny(clippy::disallowed_methods)]

use std::{
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use holdfast_e2e::{place, process, scene};
use holdfast_powercut::{device, lie::Lie};

static TURN: Mutex<()> = Mutex::new(());

/// The seed of every day: what fails must fail again.
const SEED: u64 = 1;

/// Runs the harness: whether it found nothing wrong, and what it printed. `None`: it cannot run here.
fn run(name: &str, args: &[&str]) -> Result<Option<(bool, String)>> {
    let skipped = if place::endpoint().is_some() {
        Some("another runtime's endpoint was given, and this test is about ours".to_owned())
    } else {
        scene::missing()?.map_or_else(device::missing, |reason| Ok(Some(reason)))?
    };
    if let Some(reason) = skipped {
        println!("SKIP: {reason}");
        return Ok(None);
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let recordings = place::cache().join("logs").join(name);
    let mut harness = Command::new(env!("CARGO_BIN_EXE_holdfast-powercut"));
    harness.args(args).arg(format!("--seed={SEED}")).arg("--recordings").arg(&recordings);
    let output = process::run(&mut harness)?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    ensure!(matches!(code, Some(0 | 1)), "the harness failed with {code:?}: {text}");
    Ok(Some((code == Some(0), text.into_owned())))
}

/// The recordings of a test that passed tell nobody anything.
fn forget(name: &str) {
    let _ = std::fs::remove_dir_all(Path::new(&place::cache()).join("logs").join(name));
}

#[test]
fn an_agent_lives_with_what_a_cut_leaves() -> Result<()> {
    let name = "powercut";
    let Some((clean, text)) = run(name, &["--cuts=100", "--seconds=8"])? else { return Ok(()) };
    ensure!(clean, "{text}");
    println!("{text}");
    forget(name);
    Ok(())
}

#[test]
fn a_disk_that_lies_is_found_out() -> Result<()> {
    for (lie, finding) in [(Lie::Files, "is forgotten"), (Lie::FileSystems, "layers/")] {
        let name = format!("powercut-{lie}");
        let lying = format!("--lie={lie}");
        let args = ["--cuts=24", "--seconds=4", "--file-system=xfs", &lying];
        let Some((clean, text)) = run(&name, &args)? else { return Ok(()) };
        ensure!(!clean && text.contains(finding), "{lie} was not found out: {text}");
        forget(&name);
    }
    Ok(())
}
