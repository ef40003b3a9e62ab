//! The container's cgroups: killing what is left in them, and how often the kernel killed for memory.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use holdfast_pod::protocol::FdRole;
use holdfast_sys::path::of_descriptor;
use holdfast_sys::{cgroup, pidfd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, pread};

use super::calls::Passed;

/// Descriptors of the container's groups, as the agent gave them.
#[derive(Debug, Default)]
pub struct Cgroup {
    /// v2.
    pub dir: Option<OwnedFd>,
    /// v1: the `tasks` files.
    pub tasks: Vec<OwnedFd>,
    oom: Option<OwnedFd>,
    /// Count at the beginning.
    before: u64,
    /// Last count that was seen: the file may be gone before we are.
    last: u64,
}

impl Cgroup {
    /// Takes what came with a call.
    pub fn take(&mut self, passed: &mut Passed) {
        self.dir = passed.take(FdRole::CgroupDir).or(self.dir.take());
        self.tasks.extend(passed.take_all(FdRole::CgroupTasks));
        if let Some(oom) = passed.take(FdRole::OomCount) {
            self.before = oom_count(&oom).unwrap_or(0);
            self.last = self.before;
            self.oom = Some(oom);
        }
    }

    /// The file that counts.
    pub fn oom_file(&self) -> Option<&OwnedFd> {
        self.oom.as_ref()
    }

    /// Reads the count; one that cannot be read any more stays what it was.
    pub fn read_oom(&mut self) {
        if let Some(count) = self.oom.as_ref().and_then(oom_count) {
            self.last = count;
        }
    }

    /// Kills since the beginning.
    pub fn oom_kills(&self) -> u64 {
        self.last.saturating_sub(self.before)
    }

    /// The groups that are the container's, in every hierarchy.
    fn groups(&self) -> Vec<OwnedFd> {
        let unified = self.dir.as_ref().and_then(|dir| dir.try_clone().ok());
        unified.into_iter().chain(self.tasks.iter().filter_map(group_of)).collect()
    }

    /// Processes in it and below it. `None`: it cannot be told.
    pub fn processes(&self) -> Option<Vec<i32>> {
        let groups = self.groups();
        (!groups.is_empty()).then(|| members(&groups))
    }

    /// One round of SIGKILL for everything in it and below it; never waits. `true`: nothing was left.
    pub fn kill_once(&self) -> bool {
        let groups: Vec<_> = self.groups().into_iter().filter(is_a_containers).collect();
        let found = members(&groups);
        if found.is_empty() {
            return true;
        }
        let killed = groups.iter().filter(|group| cgroup::kill(group).is_ok()).count();
        // In v1 groups, and threaded ones, by hand.
        if killed < groups.len() {
            groups.iter().for_each(cgroup::stop_forks);
            let opened = found.into_iter().filter_map(|pid| Some((pid, pidfd::open(pid).ok()?)));
            let opened: Vec<_> = opened.collect();
            // A number that is still in the group after its process was opened means that process.
            let still = members(&groups);
            for (_, process) in opened.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
                let _ = pidfd::kill(process);
            }
        }
        groups.iter().for_each(cgroup::thaw);
        false
    }

    /// Lets what was killed die: a process that the v1 freezer holds does not.
    pub fn thaw(&self) {
        // Of a dozen hierarchies one has the file.
        let frozen = |tasks: &&OwnedFd| {
            fs::read_link(of_descriptor(tasks))
                .is_ok_and(|tasks| tasks.with_file_name("freezer.state").exists())
        };
        self.tasks.iter().filter(frozen).filter_map(group_of).for_each(cgroup::thaw);
    }
}

/// Killing, again and again, until nothing is left: what runs may fork, and what was killed takes its time. Between two
/// rounds the control loop goes on.
#[derive(Debug)]
pub struct Sweep {
    until: Instant,
    pause: Duration,
    /// When the next round is due.
    pub next: Instant,
}

impl Sweep {
    /// Longest time that killed processes may take to exit.
    const LIMIT: Duration = Duration::from_secs(2);
    const LONGEST_PAUSE: Duration = Duration::from_millis(20);

    /// Before the first round.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self { until: now + Self::LIMIT, pause: Duration::from_millis(1), next: now }
    }

    /// After a round that has found somebody. `None`: that took too long.
    pub fn again(self) -> Option<Self> {
        let now = Instant::now();
        let pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
        (now < self.until).then_some(Self { pause, next: now + self.pause, ..self })
    }
}

/// A group that holds us, or pid 1 as the root of a hierarchy may, is none.
fn is_a_containers(group: &OwnedFd) -> bool {
    let processes = cgroup::processes(group);
    !processes.contains(&1) && !processes.contains(&std::process::id().cast_signed())
}

fn members(groups: &[OwnedFd]) -> Vec<i32> {
    let mut all: Vec<i32> = groups.iter().flat_map(cgroup::processes).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The v1 group whose `tasks` this is; not a root, which `release_agent` tells.
fn group_of(tasks: &OwnedFd) -> Option<OwnedFd> {
    let tasks = fs::read_link(of_descriptor(tasks)).ok()?;
    let group = tasks.parent()?;
    let root = group.join("release_agent").exists();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, group, flags, Mode::empty()).ok().filter(|_| !root)
}

/// `oom_kill` of memory.events (v2) or memory.oom_control (v1). `None`: the group is gone (ENODEV).
fn oom_count(file: &OwnedFd) -> Option<u64> {
    let mut text = [0; 512];
    let len = loop {
        match pread(file.as_fd(), &mut text, 0) {
            Err(Errno::INTR) => {}
            other => break other.ok()?,
        }
    };
    parse_oom(std::str::from_utf8(&text[..len]).ok()?)
}

fn parse_oom(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_count_are_read() {
        assert_eq!(parse_oom("low 0\nhigh 0\nmax 5\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(parse_oom("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(parse_oom(""), None);
    }

    #[test]
    fn without_a_group_nothing_is_killed() {
        let cgroup = Cgroup::default();
        assert_eq!(cgroup.processes(), None);
        assert!(cgroup.kill_once());
    }
}
