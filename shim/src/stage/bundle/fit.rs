//! What we may not do ourselves another runtime may not either, but fails at: without CAP_SYS_RESOURCE, which nested
//! set-ups lack, no limit is raised and no process made less likely to be killed.

use std::fs;

use holdfast_sys::caps::{self, Set};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, Process};
use rustix::process::getrlimit;

use super::super::{identity, oom};
use crate::fault::{OrFail, Result};

/// Makes of a process's spec what can be had here; returns what a log should say.
pub fn fit(process: &mut Process) -> Result<Vec<String>> {
    let warnings = fit_oom(process)?;
    let limited = !caps::permitted().or_fail("read our own capabilities")?.contains(Set::SYS_RESOURCE);
    if limited && let Some(limits) = process.rlimits().clone() {
        process.set_rlimits(Some(limits.into_iter().map(|limit| lowered(limit, highest(&limit))).collect()));
    }
    Ok(warnings)
}

/// Tried on ourselves: what we then have is what the spec may ask for.
fn fit_oom(process: &mut Process) -> Result<Vec<String>> {
    const STAGE: &str = "read oom_score_adj";
    let warnings = oom::adjust(process)?;
    if !warnings.is_empty() {
        let now = fs::read_to_string("/proc/self/oom_score_adj").or_fail(STAGE)?;
        process.set_oom_score_adj(now.trim().parse().ok());
    }
    Ok(warnings)
}

/// Our own hard limit.
fn highest(limit: &PosixRlimit) -> u64 {
    getrlimit(identity::resource(limit.typ())).maximum.unwrap_or(u64::MAX)
}

fn lowered(limit: PosixRlimit, highest: u64) -> PosixRlimit {
    let hard = limit.hard().min(highest);
    let builder = PosixRlimitBuilder::default().typ(limit.typ()).hard(hard).soft(limit.soft().min(hard));
    // Nothing is missing, so nothing fails.
    builder.build().unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lowered_and_never_raised() {
        let limit = PosixRlimitBuilder::default().soft(100_u64).hard(200_u64).build().unwrap_or_default();
        let both = |limit: PosixRlimit| (limit.soft(), limit.hard());
        assert_eq!(both(lowered(limit, 300)), (100, 200));
        assert_eq!(both(lowered(limit, 150)), (100, 150));
        assert_eq!(both(lowered(limit, 50)), (50, 50));
    }
}
