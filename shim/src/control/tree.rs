//! Killing an exec's process with all of it that can be found: its group, its session, its descendants.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;

use holdfast_sys::clone::Child;
use holdfast_sys::proc::Stat;
use holdfast_sys::{pidfd, process};

use super::cgroup::Cgroup;

/// Rounds: what is found may have forked meanwhile.
const ROUNDS: usize = 8;

/// A process that was looked at while its descriptor was open.
struct Seen {
    pid: i32,
    stat: Stat,
    pidfd: OwnedFd,
}

fn look(pid: i32) -> Option<Seen> {
    // The descriptor first: if the number changes hands then, what we read is another's, but what we signal is gone.
    let pidfd = pidfd::open(pid).ok()?;
    Some(Seen { pid, stat: Stat::of(pid).ok()?, pidfd })
}

/// Kills it with SIGKILL. `leader` is a child of ours that is not reaped, and leads a session of its own.
pub fn kill(leader: &Child, cgroup: &Cgroup) {
    for _ in 0..ROUNDS {
        // Before the leader, whose end would give its children to another parent.
        let found = members(leader.pid, cgroup);
        for member in &found {
            let _ = pidfd::kill(&member.pidfd);
        }
        process::kill_group(leader.pid);
        let _ = pidfd::kill(&leader.pidfd);
        if found.is_empty() {
            return;
        }
    }
}

fn members(leader: i32, cgroup: &Cgroup) -> Vec<Seen> {
    let all = cgroup.processes().unwrap_or_else(everybody);
    let mut rest: Vec<Seen> =
        all.into_iter().filter(|pid| *pid > 1 && *pid != us() && *pid != leader).filter_map(look).collect();
    let mut family = HashSet::from([leader]);
    let mut found = Vec::new();
    loop {
        let belongs = |seen: &Seen| seen.stat.session == leader || family.contains(&seen.stat.parent);
        let (ours, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(belongs);
        rest = others;
        if ours.is_empty() {
            return found;
        }
        family.extend(ours.iter().map(|seen| seen.pid));
        found.extend(ours);
    }
}

/// Kills every child of ours; for a container that is being taken back.
pub fn kill_children() {
    let children = everybody().into_iter().filter_map(look).filter(|seen| seen.stat.parent == us());
    for child in children {
        let _ = pidfd::kill(&child.pidfd);
    }
}

/// Whether the process of that number is a child of ours, running or not yet reaped.
pub fn is_child(pid: i32) -> bool {
    Stat::of(pid).is_ok_and(|stat| stat.parent == us())
}

fn us() -> i32 {
    std::process::id().cast_signed()
}

fn everybody() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
