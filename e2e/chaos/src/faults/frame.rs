//! What all faults but the daemon's own death have around them: a bystander and a probe, and afterwards a pod that must live
//! as before, and the oracle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;

use super::{
    Fault, Options,
    probe::Probe,
    small::{Bystander, recovers},
};
use crate::{
    finish::finish,
    ledger,
    report::{self, Report},
    seed::stream,
    stage::{Setup, Stage},
    world::{Caller, World},
};

/// Longest until all is as before.
const RECOVERY: Duration = Duration::from_secs(20);

/// A fault's surroundings.
#[derive(Debug)]
pub struct Frame {
    /// Daemon, registry, directories.
    pub stage: Stage,
    /// Who calls.
    pub caller: Caller,
    /// Whom it must not touch.
    pub bystander: Bystander,
    /// Decides all that is random.
    pub rng: Rng,
    /// What was measured.
    pub report: Report,
}

impl Frame {
    /// What clients share.
    pub fn world(&self) -> &Arc<World> {
        &self.stage.world
    }

    /// Whether the runtime is ours.
    pub fn is_ours(&self) -> bool {
        self.stage.daemon.kind().is_ours()
    }

    /// Notes what must not be.
    pub fn found(&self, fault: ledger::Fault, detail: &str) {
        self.caller.found(fault, detail);
    }

    /// If the daemon has ended by itself: that is noted, and it is started again.
    pub async fn must_live(&mut self, when: &str) -> Result<()> {
        let pid = self.stage.daemon.pid().and_then(crate::kernel::Process::find);
        if pid.is_none() {
            let text = format!("{when}: the daemon ended by itself: {}", self.stage.daemon.last_words());
            self.report.failed_starts.push(text);
            self.stage.restart().await?;
        }
        Ok(())
    }
}

/// Runs a fault in its frame. An error of the fault's own is a finding: something did not work that had to.
pub async fn framed(
    fault: Fault,
    setup: &Setup,
    options: &Options,
    body: impl AsyncFnOnce(&mut Frame) -> Result<()>,
) -> Result<Report> {
    let mut stage = Stage::new(setup).await?;
    stage.look().await?;
    let begin = Instant::now();
    let caller = Caller::new(&stage.world, &fault.to_string());
    let bystander = Bystander::run(&caller).await?;
    let probe = Probe::start(&stage.world);
    let report = Report::new(stage.daemon.kind().name(), &fault.to_string(), options.seed);
    let rng = stream(options.seed, &fault.to_string(), 0);
    let mut frame = Frame { stage, caller, bystander, rng, report };
    if let Err(error) = body(&mut frame).await {
        frame.found(ledger::Fault::Stuck, &format!("{error:#}"));
    }
    frame.must_live("at the end").await?;
    frame.bystander.check("at the end").await;
    let exec = frame.bystander.exec("at the end").await;
    let recovery = recovers(&frame.caller, RECOVERY).await;
    let seen = probe.end().await;
    let Frame { mut stage, mut report, .. } = frame;
    report.left = finish(&mut stage).await?;
    stage.keep_log();
    report.sums = stage.world.ledger.sums();
    report.seconds = begin.elapsed().as_secs_f64();
    report.figure("seconds", report.seconds.round());
    report.figure("Status and lists, answers", seen.answers as f64);
    report.figure("Status and lists, no answer", seen.failures as f64);
    report.figure("Status and lists, max, ms", report::milliseconds(seen.longest));
    report.figure("exec in the bystander, ms", report::milliseconds(exec));
    report.figure("a pod's life afterwards, ms", report::milliseconds(recovery));
    Ok(report)
}
