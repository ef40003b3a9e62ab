//! Very many short execs, many at once: each has its own exit code and its own output.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed},
};
use crate::{kernel, ledger, report::Report, specs, stage::Setup};

/// Execs.
const EXECS: u64 = 2000;
/// At once.
const AT_ONCE: usize = 32;
/// Execs before memory is looked at: buffers are made once.
const WARM_UP: u64 = 100;
/// What the shim's memory may grow by, in KiB.
const GROWTH_KIB: u64 = 1024;
/// Longest until descriptors are given back.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    let execs = options.amount.unwrap_or(EXECS);
    framed(Fault::Execs, setup, options, async |frame| many(frame, execs).await).await
}

async fn many(frame: &mut Frame, execs: u64) -> Result<()> {
    let small = Small::run(&frame.caller, specs::PLAIN, "execs").await.map_err(failed("RunPodSandbox"))?;
    let (id, process) = small.sleeper("main").await?;
    let shim = process.parent;
    let daemon = frame.stage.daemon.pid().context("no daemon")?;
    all(&small, &id, WARM_UP.min(execs)).await?;
    let before = (kernel::kib(shim, "status", "VmRSS").unwrap_or_default(), kernel::descriptors(shim));
    let descriptors = kernel::descriptors(daemon);
    let begin = Instant::now();
    all(&small, &id, execs).await?;
    let time = begin.elapsed();
    let begin = Instant::now();
    while (kernel::descriptors(shim) > before.1 || kernel::descriptors(daemon) > descriptors)
        && begin.elapsed() < SETTLE
    {
        sleep(Duration::from_millis(20)).await;
    }
    let after = (kernel::kib(shim, "status", "VmRSS").unwrap_or_default(), kernel::descriptors(shim));
    if frame.is_ours() && after.0 > before.0 + GROWTH_KIB {
        frame
            .found(ledger::Fault::WrongState, &format!("the shim grew from {} to {} KiB", before.0, after.0));
    }
    if after.1 > before.1 {
        frame.found(ledger::Fault::NotGone, &format!("the shim's descriptors: {} and {}", before.1, after.1));
    }
    let now = kernel::descriptors(daemon);
    if now > descriptors {
        frame.found(ledger::Fault::NotGone, &format!("the daemon's descriptors: {descriptors} and {now}"));
    }
    frame.report.figure("execs", execs as f64);
    frame.report.figure("execs a second", execs as f64 / time.as_secs_f64());
    frame.report.figure("memory of the shim before, KiB", before.0 as f64);
    frame.report.figure("memory of the shim afterwards, KiB", after.0 as f64);
    small.end().await.map_err(failed("the pod's end"))
}

/// Runs so many, and checks each.
async fn all(small: &Small, id: &str, execs: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (small, id, next) = (small.clone(), id.to_owned(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= execs {
                        return;
                    }
                    one(&small, &id, number).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.context("a worker")?;
    }
    Ok(())
}

async fn one(small: &Small, id: &str, number: u64) {
    let code = (number % 251) as i32;
    let script = format!("echo out {number}; echo err {number} >&2; exit {code}");
    match small.exec(id, &script, 60).await {
        Ok(answer)
            if answer.exit_code == code
                && answer.stdout == format!("out {number}\n").as_bytes()
                && answer.stderr == format!("err {number}\n").as_bytes() => {}
        Ok(answer) => small.caller.found(ledger::Fault::WrongExec, &format!("exec {number}: {answer:?}")),
        Err(failure) => small.caller.found(ledger::Fault::Stuck, &format!("exec {number}: {failure}")),
    }
}
