//! Choice of the moments of power cuts, and of the writes that the disk keeps then.
//!
//! A disk keeps everything that was written before a flush that it has answered. Of what came after, it may keep any
//! part, in any order; a long write may be torn where a page of [`PAGE`] ends, as disks promise no less today and XFS relies on.
//! Everything is decided by a seed and the number of the cut, so that one of them can be made again alone.

use std::fmt;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::log::Entry;

/// Sectors that are written whole or not at all.
const PAGE: u64 = 8;

/// A write that the disk kept, or the first sectors of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its place in the log.
    pub entry: usize,
    /// Sectors.
    pub sectors: u64,
}

/// Kinds of moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Moment {
    /// Right behind a flush.
    Flush,
    /// Right after something was told that must stay so.
    Told,
    /// Any.
    Any,
}

/// A power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// In the order in which they were chosen.
    pub number: usize,
    /// Kind of its moment.
    pub moment: Moment,
    /// Entries that had been asked of the disk.
    pub at: usize,
    /// Entries up to and with the last flush: kept.
    pub flushed: usize,
    /// Writes behind the last flush that are kept.
    pub kept: Vec<Kept>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, moment, at, flushed, kept } = self;
        write!(
            f,
            "cut {number} ({moment:?}) after {at} entries, {} of {} unflushed kept",
            kept.len(),
            at - flushed
        )
    }
}

/// Chooses cuts.
#[derive(Debug)]
pub struct Chooser<'a> {
    entries: &'a [Entry],
    first: usize,
    /// Positions behind flushes, shuffled.
    flushes: Vec<usize>,
    /// Positions of promises, shuffled.
    told: Vec<usize>,
    seed: u64,
}

impl<'a> Chooser<'a> {
    /// None comes before the position `first`. `told`: where something was told that must stay so.
    pub fn new(entries: &'a [Entry], first: usize, told: &[u64], seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let flushes = entries.iter().enumerate().filter(|(_, entry)| entry.is_flush()).map(|(at, _)| at + 1);
        let mut flushes: Vec<usize> = flushes.filter(|at| *at >= first).collect();
        let told = told.iter().filter_map(|at| usize::try_from(*at).ok());
        let mut told: Vec<usize> = told.filter(|at| (first..=entries.len()).contains(at)).collect();
        flushes.dedup();
        told.dedup();
        rng.shuffle(&mut flushes);
        rng.shuffle(&mut told);
        Self { entries, first, flushes, told, seed }
    }

    /// Flushes that a cut can come behind.
    pub fn flushes(&self) -> usize {
        self.flushes.len()
    }

    /// A cut by its number. One of three each comes behind a flush, when something was told, and at any moment.
    pub fn cut(&self, number: usize) -> Cut {
        let mut rng = Rng::with_seed(self.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (kind, turn) = (number % 3, number / 3);
        let (moment, at) = match kind {
            // Each once.
            0 if turn < self.flushes.len() => (Moment::Flush, self.flushes[turn]),
            1 if !self.told.is_empty() => (Moment::Told, self.told[turn % self.told.len()]),
            _ => (Moment::Any, rng.usize(self.first..=self.entries.len())),
        };
        let flushed = self.entries[..at].iter().rposition(Entry::is_flush).map_or(0, |flush| flush + 1);
        let kept = self.keep(flushed, at, &mut rng);
        Cut { number, moment, at, flushed, kept }
    }

    /// All, none, or each with one probability between them; one in eight of those is torn.
    fn keep(&self, flushed: usize, at: usize, rng: &mut Rng) -> Vec<Kept> {
        let chance = [0, 1, 3, 5, 7, 9, 10][rng.usize(..7)];
        let mut kept = Vec::new();
        for (entry, asked) in (flushed..at).zip(&self.entries[flushed..at]) {
            if asked.sectors == 0 || !(asked.is_durable() || rng.u8(..10) < chance) {
                continue;
            }
            // Pages that begin behind its first sector.
            let tears = (asked.sector + asked.sectors).div_ceil(PAGE) - asked.sector / PAGE - 1;
            let is_torn = chance < 10 && !asked.is_durable() && tears > 0 && rng.u8(..8) == 0;
            let sectors = if is_torn {
                (asked.sector / PAGE + rng.u64(1..=tears)) * PAGE - asked.sector
            } else {
                asked.sectors
            };
            kept.push(Kept { entry, sectors });
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of 20 sectors that begin within a page, and a flush behind every fourth.
    fn entries() -> Vec<Entry> {
        let write = |number: u64| Entry::of_write(5 + 100 * number, 20);
        (0..40)
            .flat_map(|number| [Some(write(number)), (number % 4 == 3).then(Entry::flush)])
            .flatten()
            .collect()
    }

    #[test]
    fn what_was_flushed_is_kept_and_of_the_rest_any_part() {
        let entries = entries();
        let chooser = Chooser::new(&entries, 10, &[12, 30], 7);
        let cuts: Vec<Cut> = (0..600).map(|number| chooser.cut(number)).collect();
        for cut in &cuts {
            assert!(cut.at >= 10 && cut.flushed <= cut.at);
            assert!(entries[cut.flushed..cut.at].iter().all(|entry| !entry.is_flush()));
            assert!(cut.flushed == 0 || entries[cut.flushed - 1].is_flush());
            for kept in &cut.kept {
                let entry = &entries[kept.entry];
                assert!((cut.flushed..cut.at).contains(&kept.entry));
                let is_whole = kept.sectors == entry.sectors;
                assert!(
                    is_whole || (kept.sectors < 20 && (entry.sector + kept.sectors).is_multiple_of(PAGE))
                );
            }
        }
        let has = |is: &dyn Fn(&Cut) -> bool| cuts.iter().any(is);
        assert!(has(&|cut| cut.kept.is_empty() && cut.at > cut.flushed));
        assert!(has(&|cut| !cut.kept.is_empty() && cut.kept.len() < cut.at - cut.flushed));
        assert!(has(&|cut| cut.kept.iter().any(|kept| kept.sectors < 20)));
        assert_eq!(cuts.iter().filter(|cut| cut.moment == Moment::Flush).count(), chooser.flushes());
        assert_eq!(cuts[5], Chooser::new(&entries, 10, &[12, 30], 7).cut(5));
    }
}
