//! Containers that take what they can get: processes without end, memory without end. Each under a limit of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed},
};
use crate::{
    ledger,
    report::{self, Report},
    specs,
    stage::Setup,
};

/// Pods that do it.
const ROUNDS: u64 = 4;
/// Processes that a container may have.
const PIDS: u32 = 60;
/// Memory that a container may have, in bytes.
const MEMORY: i64 = 24 << 20;
/// Containers at once that run out of memory.
const STORM: usize = 4;
/// A killed container is gone within this.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// Longest until memory is out.
const OOM_LIMIT: Duration = Duration::from_mins(1);

/// Ways to fork: all at once, in sessions of their own, as orphans, again and again after each failure.
const BOMBS: [&str; 3] = [
    "b() { b | b & }; b & exec sleep 3600",
    "while :; do setsid sleep 3600 & done & exec sleep 3600",
    "f() { while :; do ( ( while :; do sleep 0.1; done ) & ) ; done; }; f & f & f & exec sleep 3600",
];

/// Fork bombs.
pub async fn bombs(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    let setup = Setup { runtime: format!("pids_limit = {PIDS}"), ..setup.clone() };
    framed(Fault::ForkBomb, &setup, options, async |frame| {
        let (mut stops, mut execs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (stop, exec) = bomb(frame, round).await.with_context(|| format!("round {round}"))?;
            stops.push(report::milliseconds(stop));
            execs.push(report::milliseconds(exec));
        }
        frame.report.figure("fork bombs", rounds as f64);
        report::times(&mut frame.report, "StopContainer of a bomb", stops);
        report::times(&mut frame.report, "exec beside a bomb", execs);
        Ok(())
    })
    .await
}

async fn bomb(frame: &mut Frame, round: u64) -> Result<(Duration, Duration)> {
    let script = BOMBS[frame.rng.usize(0..BOMBS.len())];
    let small = Small::run(&frame.caller, specs::PLAIN, &format!("bomb-{round}"))
        .await
        .map_err(failed("RunPodSandbox"))?;
    let id = small.start(small.container("main", script)).await.map_err(failed("start"))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    frame.bystander.check(script).await;
    let exec = frame.bystander.exec(script).await;
    let begin = Instant::now();
    small.stop(&id, 0).await.map_err(failed("StopContainer"))?;
    let time = begin.elapsed();
    if time > STOP_LIMIT {
        frame.found(ledger::Fault::Slow, &format!("{script}: stopped after {:.1} s", time.as_secs_f64()));
    }
    let (status, _) = small.exited(&id, STOP_LIMIT).await?;
    if status.exit_code != 137 {
        frame.found(ledger::Fault::WrongExit, &format!("{script}: {status:?}"));
    }
    small.end().await.map_err(failed("the pod's end"))?;
    Ok((time, exec))
}

/// Containers that run out of memory, several at once.
pub async fn oom(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Oom, setup, options, async |frame| {
        for round in 0..rounds {
            storm(frame, round).await.with_context(|| format!("round {round}"))?;
        }
        frame.report.figure("containers out of memory", (rounds as usize * STORM) as f64);
        Ok(())
    })
    .await
}

async fn storm(frame: &mut Frame, round: u64) -> Result<()> {
    let small = Small::run(&frame.caller, specs::PLAIN, &format!("oom-{round}"))
        .await
        .map_err(failed("RunPodSandbox"))?;
    let mut ids = Vec::new();
    for number in 0..STORM {
        // tail keeps the last line, which never ends: all of it.
        let mut config = small.container(&format!("n{number}"), "echo up; exec tail /dev/zero");
        config.linux.get_or_insert_default().resources = Some(specs::memory(MEMORY));
        ids.push(small.start(config).await.map_err(failed("start"))?);
    }
    for id in &ids {
        let (status, _) = small.exited(id, OOM_LIMIT).await?;
        if (status.exit_code, status.reason.as_str()) != (137, "OOMKilled") {
            frame.found(ledger::Fault::WrongExit, &format!("out of memory: {status:?}"));
        }
    }
    frame.bystander.check("beside containers out of memory").await;
    let exec = frame.bystander.exec("beside containers out of memory").await;
    ensure!(exec < Duration::from_secs(10), "an exec took {exec:?}");
    small.end().await.map_err(failed("the pod's end"))
}
