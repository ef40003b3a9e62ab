//! A pod's helpers are killed: the process that watches a container, or the one that holds the pod's namespaces.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_cri::v1;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed},
};
use crate::{
    ask::{container_status, pod_status},
    kernel::Process,
    ledger,
    plan::PodShape,
    report::{self, Report},
    seed::{once_in, uniform},
    specs,
    stage::Setup,
};

/// Pods whose helper is killed.
const ROUNDS: u64 = 20;
/// A death is told within this.
const TOLD: Duration = Duration::from_secs(1);
/// What is waited for at all.
const LIMIT: Duration = Duration::from_secs(15);
/// What a shim's death is told as.
const SHIM_DIED: (i32, &str) = (255, "ShimDied");
/// Latest moment of a death, after the call that it meets.
const MOMENT: Duration = Duration::from_millis(30);

/// What the container is doing when its shim dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Exec,
    Stop,
}

/// Kills shims.
pub async fn shims(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Shim, setup, options, async |frame| {
        let mut told = Vec::new();
        for round in 0..rounds {
            told.push(shim_round(frame, round).await.with_context(|| format!("round {round}"))?);
        }
        frame.report.figure("shims killed", rounds as f64);
        report::times(&mut frame.report, "told", told);
        Ok(())
    })
    .await
}

/// Milliseconds until it was told.
async fn shim_round(frame: &mut Frame, round: u64) -> Result<f64> {
    let shape = PodShape { shared_pid: once_in(&mut frame.rng, 3), ..specs::PLAIN };
    let doing = [Doing::Nothing, Doing::Exec, Doing::Stop][frame.rng.usize(0..3)];
    let after = uniform(&mut frame.rng, MOMENT);
    let small =
        Small::run(&frame.caller, shape, &format!("shim-{round}")).await.map_err(failed("RunPodSandbox"))?;
    let (other, other_process) = small.sleeper("other").await?;
    // Deaf, so that a stop takes until the shim is dead.
    let deaf = small.container("main", "trap '' TERM; while :; do sleep 1; done");
    let id = small.start(deaf).await.map_err(failed("start"))?;
    let (_, process) = container_status(&frame.caller, &id).await.map_err(failed("ContainerStatus"))?;
    let process = process.context("no process")?;
    let shim = Process::find(process.parent).context("no parent of the container's process")?;
    let name = frame.stage.daemon.kind().shim();
    ensure!(shim.name() == name, "the parent of a container's process is {} and not {name}", shim.name());

    let call = {
        let (small, id) = (small.clone(), id.clone());
        tokio::spawn(async move {
            match doing {
                Doing::Nothing => {}
                Doing::Exec => drop(small.exec(&id, "sleep 5", 30).await),
                Doing::Stop => drop(small.stop(&id, 30).await),
            }
        })
    };
    tokio::time::sleep(after).await;
    shim.kill()?;
    let begin = Instant::now();
    let (status, _) = small.exited(&id, LIMIT).await?;
    let time = begin.elapsed();
    let what = format!("{doing:?}, shim killed after {after:?}");
    if time > TOLD {
        frame.found(ledger::Fault::Slow, &format!("{what}: told after {:.1} s", time.as_secs_f64()));
    }
    if frame.is_ours() && (status.exit_code, status.reason.as_str()) != SHIM_DIED {
        frame.found(ledger::Fault::WrongExit, &format!("{what}: {status:?}"));
    }
    if process.is_alive() {
        frame.found(ledger::Fault::NotGone, &format!("{what}: the container's process runs on"));
    }
    if frame.is_ours() && !other_process.is_alive() {
        frame.found(
            ledger::Fault::ContainerLost,
            &format!("{what}: the other container {other} ended as well"),
        );
    }
    // A call that was under way ends, too.
    let ended = tokio::time::timeout(LIMIT, call).await;
    if ended.is_err() {
        frame.found(ledger::Fault::Hang, &format!("{what}: the call that was under way"));
    }
    small.end().await.map_err(failed("the pod's end"))?;
    Ok(report::milliseconds(time))
}

/// Kills the processes that hold pods.
pub async fn holders(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Holder, setup, options, async |frame| {
        let mut told = Vec::new();
        for round in 0..rounds {
            told.push(holder_round(frame, round).await.with_context(|| format!("round {round}"))?);
        }
        frame.report.figure("holders killed", rounds as f64);
        report::times(&mut frame.report, "told", told);
        Ok(())
    })
    .await
}

async fn holder_round(frame: &mut Frame, round: u64) -> Result<f64> {
    let shape = PodShape {
        shared_pid: frame.rng.bool(),
        network: if once_in(&mut frame.rng, 4) { crate::plan::Network::Host } else { specs::PLAIN.network },
        ..specs::PLAIN
    };
    let small = Small::run(&frame.caller, shape, &format!("holder-{round}"))
        .await
        .map_err(failed("RunPodSandbox"))?;
    let (id, process) = small.sleeper("main").await?;
    let (_, holder) = pod_status(&frame.caller, &small.id).await.map_err(failed("PodSandboxStatus"))?;
    let holder = holder.context("a pod without a first process")?;
    tokio::time::sleep(uniform(&mut frame.rng, MOMENT)).await;
    holder.kill()?;
    let time = small.not_ready(LIMIT).await?;
    if time > TOLD {
        frame.found(ledger::Fault::Slow, &format!("{shape:?}: told after {:.1} s", time.as_secs_f64()));
    }
    if shape.shared_pid {
        // It was the first process of the pid namespace: all others go with it.
        let (status, _) = small.exited(&id, LIMIT).await?;
        if status.state() != v1::ContainerState::ContainerExited || process.is_alive() {
            frame.found(ledger::Fault::WrongState, &format!("{shape:?}: {status:?}"));
        }
    } else if !process.is_alive() {
        let text = format!("{shape:?}: the container ended with the holder");
        frame.found(ledger::Fault::ContainerLost, &text);
    }
    small.end().await.map_err(failed("the pod's end"))?;
    Ok(report::milliseconds(time))
}
