//! The daemon has too few descriptors, or may make no more processes, and then has enough again.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{BYSTANDER, Small, recovers},
};
use crate::{finish::remove_all_but, kernel, ledger, report::Report, specs, stage::Setup};

/// Times that something is short.
const ROUNDS: u64 = 4;
/// Pods that are tried at once meanwhile.
const PODS: usize = 6;
/// How long it is short.
const SHORT: Duration = Duration::from_millis(1500);
/// Longest until calls of then have ended, once nothing is short.
const END_LIMIT: Duration = Duration::from_secs(40);
/// Longest until descriptors are given back.
const SETTLE: Duration = Duration::from_secs(10);
/// Descriptors that a daemon may have more of than before: connections of ours, caches of its own.
const SLACK: usize = 8;

/// Too few descriptors.
pub async fn descriptors(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Descriptors, setup, options, async |frame| {
        for round in 0..rounds {
            let pid = frame.stage.daemon.pid().context("no daemon")?;
            let used = kernel::descriptors(pid);
            let limit = (used + frame.rng.usize(0..16)) as u64;
            let before = limit_descriptors(pid, Rlimit { current: Some(limit), maximum: None }, true)?;
            let tries = try_pods(frame, round).await;
            limit_descriptors(pid, before, false)?;
            settle(frame, tries, &format!("{limit} descriptors")).await?;
            let begin = Instant::now();
            while kernel::descriptors(pid) > used + SLACK && begin.elapsed() < SETTLE {
                sleep(Duration::from_millis(20)).await;
            }
            let now = kernel::descriptors(pid);
            if now > used + SLACK {
                frame.found(ledger::Fault::NotGone, &format!("{used} descriptors became {now}"));
            }
        }
        frame.report.figure("times short", rounds as f64);
        Ok(())
    })
    .await
}

/// Sets the soft limit of a process; `keep` leaves its hard one. The limit before.
fn limit_descriptors(pid: u32, limit: Rlimit, keep: bool) -> Result<Rlimit> {
    let pid = Pid::from_raw(pid as i32).context("no pid")?;
    let mut wanted = limit;
    if keep {
        let now = rustix::process::getrlimit(Resource::Nofile);
        wanted.maximum = now.maximum;
    }
    prlimit(Some(pid), Resource::Nofile, wanted).context("limit the daemon's descriptors")
}

/// A group of the kernel's pids controller, gone when it is dropped.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Self> {
        let top = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(PathBuf::from);
        let top = top.into_iter().find(|top| top.exists()).context("no cgroups")?;
        let group = Self(top.join(format!("hf-chaos-{}", std::process::id())));
        fs::create_dir(&group.0).with_context(|| format!("make {}", group.0.display()))?;
        Ok(group)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("write {text} to {}", path.display()))
    }

    fn used(&self) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("pids.current")).context("read pids.current")?;
        text.trim().parse().context("parse pids.current")
    }
}

impl Drop for Group {
    /// Helpers of pods live in it as long as the pods do: those go to its parent.
    fn drop(&mut self) {
        let _ = self.write("pids.max", "max");
        for _ in 0..50 {
            for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(parent) = self.0.parent() {
                    let _ = fs::write(parent.join("cgroup.procs"), pid);
                }
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// No more processes and threads.
pub async fn pids(setup: &Setup, options: &Options) -> Result<Report> {
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Pids, setup, options, async |frame| {
        let group = Group::make()?;
        for round in 0..rounds {
            let pid = frame.stage.daemon.pid().context("no daemon")?;
            group.write("cgroup.procs", &pid.to_string())?;
            let limit = group.used()? + frame.rng.u64(0..12);
            group.write("pids.max", &limit.to_string())?;
            let tries = try_pods(frame, round).await;
            group.write("pids.max", "max")?;
            settle(frame, tries, &format!("{limit} processes and threads")).await?;
        }
        frame.report.figure("times short", rounds as f64);
        Ok(())
    })
    .await
}

/// Tries pods, and waits for a while. Every answer will do, if it comes; what was made is ended.
async fn try_pods(frame: &Frame, round: u64) -> Vec<JoinHandle<()>> {
    let tries = (0..PODS).map(|number| {
        let (caller, uid) = (frame.caller.clone(), format!("starved-{round}-{number}"));
        tokio::spawn(async move {
            if let Ok(small) = Small::run(&caller, specs::PLAIN, &uid).await {
                let _ = small.start(small.container("main", "sleep 3600")).await;
                let _ = small.end().await;
            }
        })
    });
    let tries = tries.collect();
    sleep(SHORT).await;
    frame.bystander.check("while it is short").await;
    tries
}

/// All must be as before, without anybody's help.
async fn settle(frame: &mut Frame, tries: Vec<JoinHandle<()>>, what: &str) -> Result<()> {
    frame.must_live(what).await?;
    for task in tries {
        if timeout(END_LIMIT, task).await.is_err() {
            frame.found(ledger::Fault::Hang, &format!("{what}: a call of then"));
        }
    }
    recovers(&frame.caller, Duration::from_secs(20)).await;
    frame.bystander.check(what).await;
    frame.bystander.exec(what).await;
    // What was made and could not be ended is listed, and ends now.
    remove_all_but(&frame.caller, BYSTANDER).await;
    Ok(())
}
