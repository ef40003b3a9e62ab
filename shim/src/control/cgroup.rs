//! The container's cgroups: killing what is left in them, and how often the kernel killed for memory.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_pod::protocol::FdRole;
use holdfast_sys::path::of_descriptor;
use holdfast_sys::pidfd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, pread};

use super::calls::Passed;

/// How long what was killed may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(2);

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

    /// Processes in it. `None`: it cannot be told.
    pub fn processes(&self) -> Option<Vec<i32>> {
        let text = match (&self.dir, self.tasks.first()) {
            (Some(dir), _) => read_at(dir, "cgroup.procs")?,
            (None, Some(tasks)) => fs::read_to_string(procs_beside(tasks)?).ok()?,
            (None, None) => return None,
        };
        Some(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Kills everything in it with SIGKILL, and waits a little for it to be gone. Never anything outside: a group that
    /// holds us, or is the root of its hierarchy, is no container's.
    pub fn kill_all(&self) {
        let us = std::process::id().cast_signed();
        let Some(processes) = self.processes().filter(|all| !all.contains(&us) && !all.contains(&1)) else {
            return;
        };
        if processes.is_empty() {
            return;
        }
        let end = Instant::now() + KILL_LIMIT;
        if let Some(dir) = &self.dir {
            let opened: Vec<_> = processes.iter().filter_map(|pid| pidfd::open(*pid).ok()).collect();
            if kill_by_kernel(dir) {
                for process in opened {
                    let _ = pidfd::wait_exit(process, end.saturating_duration_since(Instant::now()));
                }
                return;
            }
        }
        while Instant::now() < end && self.kill_once(us) {}
    }

    /// One round, since what runs may fork. `false`: nothing was left.
    fn kill_once(&self, us: i32) -> bool {
        let list = || self.processes().unwrap_or_default();
        let opened: Vec<_> = list()
            .into_iter()
            .filter(|pid| *pid > 1 && *pid != us)
            .filter_map(|pid| Some((pid, pidfd::open(pid).ok()?)))
            .collect();
        // A number that is still in the group after its process was opened means that process.
        let still = list();
        let ours: Vec<_> = opened.into_iter().filter(|(pid, _)| still.contains(pid)).collect();
        for (_, process) in &ours {
            let _ = pidfd::kill(process);
        }
        for (_, process) in &ours {
            let _ = pidfd::wait_exit(process, Duration::from_millis(100));
        }
        !ours.is_empty()
    }
}

/// `cgroup.kill` (Linux 5.14), which no fork escapes. The root has none.
fn kill_by_kernel(dir: &OwnedFd) -> bool {
    let file = openat(dir, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    file.and_then(|file| rustix::io::write(file, b"1")).is_ok()
}

/// `cgroup.procs` of the v1 group whose `tasks` this is; not of a root, which `release_agent` tells.
fn procs_beside(tasks: &OwnedFd) -> Option<PathBuf> {
    let tasks = fs::read_link(of_descriptor(tasks)).ok()?;
    let group = tasks.parent()?;
    let root = group.join("release_agent").exists();
    (!root).then(|| group.join("cgroup.procs"))
}

fn read_at(dir: &OwnedFd, name: &str) -> Option<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    std::io::read_to_string(fs::File::from(file)).ok()
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
        cgroup.kill_all();
    }
}
