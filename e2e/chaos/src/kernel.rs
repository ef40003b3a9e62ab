//! What the kernel says: processes by pid and start time, memory limits in force, memory in use.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

/// A process that cannot be taken for another one of the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its start time, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start: u64,
    /// Its parent when it was looked at.
    pub parent: u32,
}

impl Process {
    /// The process that has this pid now, unless it has ended.
    pub fn find(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        parse(pid, &String::from_utf8_lossy(&text))
    }

    /// Whether it runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// SIGKILL.
    pub fn kill(self) -> Result<()> {
        anyhow::ensure!(self.pid > 1 && self.is_alive(), "process {} has ended", self.pid);
        let pid = rustix::process::Pid::from_raw(self.pid as i32).context("no pid")?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .with_context(|| format!("open process {}", self.pid))?;
        // Between the look and the open the pid may have been given anew.
        anyhow::ensure!(self.is_alive(), "process {} has ended", self.pid);
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)
            .with_context(|| format!("kill process {}", self.pid))
    }

    /// Name of its program, 15 letters at most.
    pub fn name(self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim().to_owned()
    }
}

/// A line of proc_pid_stat(5). The name stands in brackets and may hold any byte, brackets too.
fn parse(pid: u32, text: &str) -> Option<Process> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let runs = !matches!(*fields.first()?, "Z" | "X");
    let (parent, start) = (fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
    runs.then_some(Process { pid, start, parent })
}

/// The memory limit that is in force for a process, in bytes.
pub fn memory_limit(pid: u32) -> Result<u64> {
    let (group, v2) = memory_group(pid)?;
    let file = group.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" });
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    text.trim().parse().with_context(|| format!("{}: {text:?}", file.display()))
}

fn memory_group(pid: u32) -> Result<(PathBuf, bool)> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let v1 = text.lines().find_map(|line| line.split_once(":memory:")).map(|(_, group)| group);
    if let Some(group) = v1 {
        return Ok((PathBuf::from(format!("/sys/fs/cgroup/memory{group}")), false));
    }
    let group = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup of memory")?;
    Ok((PathBuf::from(format!("/sys/fs/cgroup{group}")), true))
}

/// A number in KiB from a file of /proc such as `status` and `smaps_rollup`.
pub fn kib(pid: u32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// How many descriptors a process has.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_pid_and_its_start() {
        let text = "77 (a ) b) S 5 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 2000";
        assert_eq!(parse(77, text), Some(Process { pid: 77, start: 4242, parent: 5 }));
        assert_eq!(parse(77, &text.replace(" S ", " Z ")), None);
        let own = Process::find(std::process::id());
        assert!(own.is_some_and(|own| own.is_alive() && !Process { start: own.start + 1, ..own }.is_alive()));
        assert!(kib(std::process::id(), "status", "VmRSS").is_some_and(|kib| kib > 0));
    }
}
