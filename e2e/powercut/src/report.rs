//! Counts of a run.

use std::fmt;

use anyhow::Result;

use crate::{
    cuts::Moment,
    journal::What,
    log::Log,
    record::{Recording, log_in},
    replay::{Failure, Outcome, Selection, chooser},
};

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FAILED: {}", self.cut)?;
        self.wrong.iter().try_for_each(|wrong| write!(f, "\n    {wrong}"))
    }
}

/// Of one file system.
#[derive(Debug)]
pub struct Report {
    name: String,
    writes: usize,
    bytes: u64,
    flushes: usize,
    pulls: usize,
    exits: usize,
    /// Results of the cuts.
    pub outcome: Outcome,
    /// Time that they took.
    seconds: f64,
}

impl Report {
    /// Counts what a recording holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(selection: &Selection, outcome: Outcome, seconds: f64) -> Result<Self> {
        let recording = Recording::read(&selection.dir)?;
        let log = Log::open(&log_in(&selection.dir))?;
        let lines = &recording.journal.0;
        let count = |is: fn(&What) -> bool| lines.iter().filter(|line| is(&line.what)).count();
        Ok(Self {
            name: format!("{} (seed {})", selection.kind.name(), selection.seed),
            writes: log.entries.iter().filter(|entry| entry.sectors > 0).count(),
            bytes: log.bytes(),
            flushes: chooser(selection, &recording, &log)?.flushes(),
            pulls: count(|what| matches!(what, What::Pulled(_))),
            exits: count(|what| matches!(what, What::Exited { .. })),
            outcome,
            seconds,
        })
    }

    /// Whether all was as it must be.
    pub fn is_clean(&self) -> bool {
        self.outcome.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, writes, flushes, pulls, exits, seconds, .. } = self;
        let Outcome { moments, partly, back, aside, listed, failures } = &self.outcome;
        let of = |moment| moments.get(&moment).copied().unwrap_or(0);
        let cuts: usize = moments.values().sum();
        let (mib, failed) = (self.bytes >> 20, failures.len());
        let (flush, told, any) = (of(Moment::Flush), of(Moment::Told), of(Moment::Any));
        writeln!(
            f,
            "{name}: {writes} writes, {mib} MiB, {flushes} flushes; {pulls} pulls and {exits} exits told"
        )?;
        writeln!(
            f,
            "  {cuts} cuts in {seconds:.0} s: {flush} behind a flush, {told} when something was told, {any} at any \
             moment; {partly} kept a part"
        )?;
        write!(
            f,
            "  {failed} failed; {listed} pods and containers listed, {aside} records set aside, {back} removals undone"
        )
    }
}
