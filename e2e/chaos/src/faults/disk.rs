//! The disk on which the runtime keeps everything becomes full, of bytes and of inodes, and is emptied over CRI alone.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::process;
use tokio::time::sleep;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed, recovers},
};
use crate::{
    ledger,
    report::{self, Report},
    specs,
    stage::Setup,
};

/// Times that it becomes full, in turn of bytes and of inodes.
const ROUNDS: u64 = 2;
/// Its size.
const MIB: usize = 256;
/// Longest until it is full.
const FILL_LIMIT: Duration = Duration::from_mins(1);
/// Stop and Remove take no longer on a full disk.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What there is no more of.
#[derive(Debug, Clone, Copy)]
enum Short {
    Bytes,
    Inodes,
}

impl Short {
    /// Takes all, then tells, then takes what others give back.
    fn script(self) -> &'static str {
        match self {
            Self::Bytes => {
                "i=0; while :; do dd if=/dev/zero of=/fill$i bs=64k 2>/dev/null; \
                 dd if=/dev/zero of=/fine$i bs=512 2>/dev/null; i=$((i+1)); sleep 0.2; done"
            }
            Self::Inodes => {
                "n=0; while :; do mkdir -p /many/$n; cd /many/$n && seq 1 2000 | xargs touch 2>/dev/null; \
                 n=$((n+1)); [ $n -gt 20 ] && sleep 0.2; done"
            }
        }
    }
}

/// A file with a file system, gone when it is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Without blocks kept for root, as disks for data often are.
    fn make() -> Result<Self> {
        let disk = Self(tempfile::tempdir_in("/var/tmp").context("make a directory")?);
        let file = std::fs::File::create(disk.path()).context("make a disk")?;
        file.set_len((MIB << 20) as u64).context("size a disk")?;
        let path = disk.path().to_string_lossy().into_owned();
        process::stdout("mkfs.ext4", ["-q", "-m", "0", "-E", "lazy_itable_init=0", &path])?;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk")
    }
}

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    let disk = Disk::make()?;
    let setup = Setup { disk: Some(disk.path()), ..setup.clone() };
    let rounds = options.amount.unwrap_or(ROUNDS);
    framed(Fault::Disk, &setup, options, async |frame| {
        for round in 0..rounds {
            let short = if round % 2 == 0 { Short::Bytes } else { Short::Inodes };
            fill_and_empty(frame, short, round).await.with_context(|| format!("{short:?}, round {round}"))?;
        }
        frame.report.figure("times full", rounds as f64);
        Ok(())
    })
    .await
}

async fn fill_and_empty(frame: &mut Frame, short: Short, round: u64) -> Result<()> {
    let dir = frame.stage.disk().context("no disk")?;
    let small = Small::run(&frame.caller, specs::PLAIN, &format!("filler-{round}"))
        .await
        .map_err(failed("RunPodSandbox"))?;
    let id = small.start(small.container("main", short.script())).await.map_err(failed("start"))?;
    let begin = Instant::now();
    while !is_full(&dir, short)? {
        ensure!(begin.elapsed() < FILL_LIMIT, "the disk is not full after {} s", FILL_LIMIT.as_secs());
        sleep(Duration::from_millis(20)).await;
    }
    let what = format!("{short:?} are short");
    frame.bystander.check(&what).await;
    // Whatever these come to, they come to it soon, and leave nothing.
    refused_or_made(frame, &format!("in-vain-{round}")).await;
    frame.bystander.exec(&what).await;
    let restart = frame.stage.restart().await.context("a restart with a full disk")?;
    frame.report.figure(&format!("start with no {short:?}, ms"), report::milliseconds(restart));
    frame.bystander.check(&format!("{what}, after a restart")).await;
    ensure!(is_nearly_full(&dir)?, "the disk was not full all the time");

    // The pod that fills it goes, at the first try: nothing else could make room.
    let begin = Instant::now();
    let mut emptied = small.stop(&id, 0).await.map_err(failed("StopContainer"));
    if emptied.is_ok() {
        emptied = small.end().await.map_err(failed("StopPodSandbox and RemovePodSandbox"));
    }
    let time = begin.elapsed();
    frame.report.figure(&format!("end of the pod with no {short:?}, ms"), report::milliseconds(time));
    if let Err(error) = &emptied {
        frame.found(ledger::Fault::Stuck, &format!("{what}: {error:#}"));
        make_room(&small).await;
    } else if time > END_LIMIT {
        frame.found(ledger::Fault::Slow, &format!("{what}: emptied after {:.1} s", time.as_secs_f64()));
    }
    recovers(&frame.caller, Duration::from_secs(20)).await;
    frame.bystander.check(&format!("{what} no more")).await;
    Ok(())
}

/// Tries to run a pod; if one is made, it ends at once.
async fn refused_or_made(frame: &Frame, uid: &str) {
    if let Ok(small) = Small::run(&frame.caller, specs::PLAIN, uid).await {
        let _ = small.create(small.container("main", "true")).await;
        if let Err(failure) = small.end().await {
            frame.found(ledger::Fault::Stuck, &format!("the end of pod {uid}: {failure}"));
        }
    }
}

/// Kills what fills the disk and removes the pod with all patience, so that the run can go on.
async fn make_room(small: &Small) {
    let _ = crate::ask::stop_pod(&small.caller, &small.id, &[]).await;
    let _ = crate::ask::remove_pod(&small.caller, &small.id, &[]).await;
}

/// What the runtime itself gave back meanwhile may not be taken yet.
fn is_nearly_full(dir: &Path) -> Result<bool> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("statvfs {}", dir.display()))?;
    Ok(stat.f_bavail * stat.f_frsize < 1 << 20 || stat.f_favail < 64)
}

fn is_full(dir: &Path, short: Short) -> Result<bool> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("statvfs {}", dir.display()))?;
    Ok(match short {
        Short::Bytes => stat.f_bavail == 0,
        Short::Inodes => stat.f_favail == 0,
    })
}
