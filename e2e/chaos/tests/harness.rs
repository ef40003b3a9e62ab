//! The harness, tested: a runtime of its own that is right is found right, over its deaths too, and each lie of it is found.

mod liar;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_chaos::{
    client::Client,
    events::Events,
    ledger::{Fault, Ledger, Sums},
    plan::Plan,
    world::{Up, World},
};
use liar::{Liar, Lie};
use tokio::{sync::watch, time::sleep};

/// How long clients work.
const TIME: Duration = Duration::from_secs(3);
/// Clients at work.
const CLIENTS: usize = 4;

fn world(dir: &Path, up: watch::Receiver<Up>) -> Result<Arc<World>> {
    fs::create_dir(dir.join("logs"))?;
    Ok(Arc::new(World {
        socket: dir.join("socket"),
        logs: dir.join("logs"),
        cgroup_parent: String::new(),
        ledger: Ledger::default(),
        events: Events::create(&dir.join("events"))?,
        up,
        sent: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    }))
}

/// Lets clients work on a runtime that lies so; `deaths`: it dies all the time.
async fn work(lie: Lie, deaths: bool) -> Result<(Sums, u64)> {
    let dir = tempfile::tempdir()?;
    let (up, seen) = watch::channel(Up { generation: 1, serving: true });
    let world = world(dir.path(), seen)?;
    let liar = Liar::new(lie);
    let mut server = liar.serve(&world.socket).context("serve")?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let image = Some(format!("image-{number}"));
            tokio::spawn(Client::new(&world, number, Plan::new(7, number, true), image).run())
        })
        .collect();
    let begin = Instant::now();
    while begin.elapsed() < TIME * holdfast_e2e::place::slowness() {
        sleep(Duration::from_millis(60)).await;
        if deaths {
            up.send_modify(|up| up.serving = false);
            drop(server);
            server = liar.serve(&world.socket).context("serve again")?;
            up.send_modify(|up| *up = Up { generation: up.generation + 1, serving: true });
        }
    }
    world.stop.store(true, Ordering::Relaxed);
    let mut lives = 0;
    for client in clients {
        lives += client.await?.lives;
    }
    drop(server);
    Ok((world.ledger.sums(), lives))
}

fn run(lie: Lie, deaths: bool) -> Result<(Sums, u64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(work(lie, deaths))
}

#[test]
fn who_tells_the_truth_is_found_right() -> Result<()> {
    for deaths in [false, true] {
        let (sums, lives) = run(Lie::None, deaths)?;
        ensure!(sums.findings.is_empty(), "deaths: {deaths}: {:#?}", sums.findings);
        ensure!(lives > 10 && sums.cut > 0, "{lives} lives, {} cuts", sums.cut);
        ensure!((sums.lost > 0) == deaths, "{} calls were lost", sums.lost);
    }
    Ok(())
}

#[test]
fn every_lie_is_found() -> Result<()> {
    for (lie, fault) in [
        (Lie::ForgetContainer, Fault::ContainerLost),
        (Lie::EndContainer, Fault::ContainerLost),
        (Lie::StopPod, Fault::PodLost),
        (Lie::ExitCode, Fault::WrongExit),
        (Lie::LogLine, Fault::WrongLog),
        (Lie::ExecOutput, Fault::WrongExec),
        (Lie::MemoryLimit, Fault::WrongState),
        (Lie::Restart, Fault::WrongState),
        (Lie::KeepPod, Fault::NotGone),
        (Lie::RefuseAgain, Fault::RetryRefused),
        (Lie::MakeTwice, Fault::Twice),
    ] {
        let (sums, _) = run(lie, false)?;
        let found: BTreeSet<Fault> = sums.findings.iter().map(|finding| finding.fault).collect();
        ensure!(found.contains(&fault), "{lie:?} was not found as {fault:?}: {found:?}");
    }
    Ok(())
}
