//! Playing a recording up to a cut, and looking what an agent makes of it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use holdfast_e2e::process::Process;
use serde::{Deserialize, Serialize};

use crate::{
    check::{Seen, check},
    cuts::{Chooser, Cut, Moment},
    device::{FileSystem, Mounted},
    image::Base,
    log::Log,
    record::{Recording, log_in},
    site::Site,
};

/// Boots of the recording have smaller numbers.
const FIRST_BOOT: usize = 1000;

/// A selection of cuts of a recording.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Directory of the recording.
    pub dir: PathBuf,
    /// On which file system it was made.
    pub kind: FileSystem,
    /// Decides when the power goes and what the disk keeps.
    pub seed: u64,
    /// So many.
    pub cuts: usize,
    /// Only the one of that number.
    pub only: Option<usize>,
}

/// A cut after which something was not as it must be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Its number.
    pub number: usize,
    /// Its moment, and how much was kept.
    pub cut: String,
    /// Violations, each a sentence.
    pub wrong: Vec<String>,
}

/// Sums of the results of cuts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Cuts, by how their moments were chosen.
    pub moments: BTreeMap<Moment, usize>,
    /// Cuts at which the disk kept something that was not flushed.
    pub partly: usize,
    /// Removed images and containers that were there again, over all cuts.
    pub back: usize,
    /// Records that could not be read, over all cuts.
    pub aside: usize,
    /// Pods and containers that were listed, over all cuts.
    pub listed: usize,
    /// Cuts with violations.
    pub failures: Vec<Failure>,
}

impl Outcome {
    /// Takes note of a cut.
    fn add(&mut self, cut: &Cut, seen: Seen) {
        *self.moments.entry(cut.moment).or_default() += 1;
        self.partly += usize::from(!cut.kept.is_empty());
        self.back += seen.back;
        self.aside += seen.aside;
        self.listed += seen.listed;
        if !seen.wrong.is_empty() {
            let failure = Failure { number: cut.number, cut: cut.to_string(), wrong: seen.wrong };
            eprintln!("{failure}");
            self.failures.push(failure);
        }
    }

    /// The sum of two.
    fn and(mut self, other: Self) -> Self {
        for (moment, count) in other.moments {
            *self.moments.entry(moment).or_default() += count;
        }
        self.partly += other.partly;
        self.back += other.back;
        self.aside += other.aside;
        self.listed += other.listed;
        self.failures.extend(other.failures);
        self
    }
}

/// Plays all of a selection in processes that have nothing in common.
///
/// # Errors
/// One of them fails.
pub fn play_in_parts(selection: &Selection, parts: usize) -> Result<Outcome> {
    let program = std::env::current_exe().context("find this program")?;
    let outcome = |part: usize| selection.dir.join(format!("part-{part}.json"));
    let mut running = Vec::new();
    for part in 0..parts {
        let mut command = Command::new(&program);
        command.arg("play").arg(&selection.dir).args(["--kind", selection.kind.name()]);
        command.arg(format!("--seed={}", selection.seed)).arg(format!("--cuts={}", selection.cuts));
        command.arg(format!("--part={part}")).arg(format!("--parts={parts}"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(outcome(part)).context("make a file for an outcome")?);
        running.push(Process::spawn(&mut command)?);
    }
    for mut part in running {
        let status = part.wait()?;
        if !status.success() {
            bail!("a process that plays cuts: {status}");
        }
    }
    let mut sum = Outcome::default();
    for part in 0..parts {
        let text = fs::read(outcome(part)).context("read an outcome")?;
        sum = sum.and(serde_json::from_slice(&text).context("parse an outcome")?);
    }
    sum.failures.sort_by_key(|failure| failure.number);
    Ok(sum)
}

/// Plays every `parts`th cut of a selection from number `part` on. Logs of agents that failed are kept beside the recording.
///
/// # Errors
/// Those of files, loop devices and mounts; what an agent does wrong is in the outcome.
pub async fn play(selection: &Selection, part: usize, parts: usize) -> Result<Outcome> {
    let dir = &selection.dir;
    let recording = Recording::read(dir)?;
    let log = Log::open(&log_in(dir))?;
    let chooser = chooser(selection, &recording, &log)?;
    let mut cuts: Vec<Cut> = match selection.only {
        None => (0..selection.cuts).map(|number| chooser.cut(number)).collect(),
        Some(number) => vec![chooser.cut(number)],
    };
    cuts.sort_by_key(|cut| cut.flushed);
    let mut outcome = Outcome::default();
    let site = Site::new(None)?;
    let mut base = Base::empty(&site.dir().join("base.img"))?;
    for (done, cut) in cuts.iter().skip(part).step_by(parts).enumerate() {
        if done > 0 && done % 100 == 0 {
            eprintln!("    {done} cuts of part {part}, {} failed", outcome.failures.len());
        }
        base.advance(&log, cut.flushed)?;
        let disk = base.copy(&site.dir().join("cut.img"), &log, &cut.kept)?;
        site.boot(FIRST_BOOT + cut.number)?;
        let seen = one(selection, cut, &site, &disk, &recording).await;
        let seen = seen.with_context(|| cut.to_string())?;
        outcome.add(cut, seen);
    }
    Ok(outcome)
}

/// Chooses cuts of a recording.
///
/// # Errors
/// A position of it is larger than memory.
pub fn chooser<'a>(selection: &Selection, recording: &Recording, log: &'a Log) -> Result<Chooser<'a>> {
    let first = usize::try_from(recording.first).context("a position of that size")?;
    Ok(Chooser::new(&log.entries, first, &recording.journal.told(), selection.seed))
}

/// A disk that cannot be mounted is a fault of the harness; all else is the agent's.
async fn one(
    selection: &Selection,
    cut: &Cut,
    site: &Site,
    disk: &Path,
    recording: &Recording,
) -> Result<Seen> {
    let mounted = Mounted::open(selection.kind, disk, &site.root())?;
    let seen = Box::pin(check(site, recording, cut.at as u64)).await;
    let seen = seen.unwrap_or_else(|error| Seen { wrong: vec![format!("{error:#}")], ..Seen::default() });
    if !seen.wrong.is_empty() {
        let kept = selection.dir.join(format!("agent-{}.log", cut.number));
        fs::copy(site.dir().join("agent.log"), &kept).context("keep an agent's log")?;
    }
    site.sweep()?;
    mounted.close()?;
    Ok(seen)
}
