//! Processes of the tests. This process is a child subreaper: what an agent leaves behind becomes our child and is
//! seen, instead of vanishing under PID 1. A thread reaps such strangers; what the tests spawn is theirs to wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::wait;

/// Pids that a test spawned and will wait for itself.
static OURS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
static REAPER: OnceLock<()> = OnceLock::new();

fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the reaper of all that its children leave behind.
pub fn become_reaper() -> Result<()> {
    if REAPER.get().is_some() {
        return Ok(());
    }
    nix::sys::prctl::set_child_subreaper(true).context("become a child subreaper")?;
    if REAPER.set(()).is_ok() {
        thread::spawn(|| {
            loop {
                reap_strangers();
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
    Ok(())
}

/// Waits for zombies that are our children but were not spawned here.
fn reap_strangers() {
    // Held while looking, so that nobody is between its spawn and its entry in the list.
    let ours = ours();
    for process in children_of(std::process::id()) {
        if process.state == 'Z' && !ours.contains(&process.pid) {
            let _ = waitpid(Pid::from_raw(process.pid as i32), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// A child that is ended, if it still runs, when the test is done with it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
    what: String,
}

impl Process {
    /// Starts a command that goes on.
    #[expect(clippy::disallowed_methods, reason = "the reaper is told of it")]
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let mut ours = ours();
        let child = command.spawn().with_context(|| format!("run {what}"))?;
        ours.insert(child.id());
        Ok(Self { child, ended: None, what })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("wait for {}", self.what))?;
        }
        Ok(self.ended)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            // Not waited for yet, so the pid is still its own.
            kill(Pid::from_raw(self.child.id() as i32), signal)
                .with_context(|| format!("signal {}", self.what))?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.what);
        wait::until(&what, limit, || self.ended())
    }

    /// Waits for its end, however long that takes: for what somebody watches.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().with_context(|| format!("wait for {}", self.what))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.end(wait::LIMIT).map(|_| ())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        ours().remove(&self.child.id());
    }
}

/// Runs a command to its end, with its output.
#[expect(clippy::disallowed_methods, reason = "the reaper is told of it")]
pub fn run(command: &mut Command) -> Result<Output> {
    let what = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let mut ours = ours();
        let child = command.spawn().with_context(|| format!("run {what}"))?;
        ours.insert(child.id());
        child
    };
    let pid = child.id();
    let output = child.wait_with_output().with_context(|| format!("wait for {what}"));
    ours().remove(&pid);
    output
}

/// Runs a program that must succeed, and returns what it printed.
pub fn stdout<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = Command::new(program);
    let output = run(command.args(args))?;
    if !output.status.success() {
        bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One line of the process table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// State, as in proc_pid_stat(5).
    pub state: char,
    /// Name of its program.
    pub name: String,
}

/// All processes.
pub fn table() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// One process, if it is there.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name stands in brackets and may hold any byte, brackets too.
    let (head, tail) = text.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { pid, parent, state, name: head.split_once('(')?.1.to_owned() })
}

fn children_of(pid: u32) -> Vec<Stat> {
    table().into_iter().filter(|process| process.parent == pid).collect()
}

/// All that descends from this process, but for what the tests themselves spawned and hold.
pub fn descendants() -> Vec<Stat> {
    let mut found = below(std::process::id(), table());
    let ours = ours();
    found.retain(|process| !ours.contains(&process.pid));
    found
}

/// All that does not descend from this process.
pub fn strangers() -> Vec<Stat> {
    let table = table();
    let own: BTreeSet<u32> =
        below(std::process::id(), table.clone()).into_iter().map(|process| process.pid).collect();
    table.into_iter().filter(|process| !own.contains(&process.pid)).collect()
}

/// Processes of a table that descend from a process.
fn below(pid: u32, table: Vec<Stat>) -> Vec<Stat> {
    let mut by_parent: BTreeMap<u32, Vec<Stat>> = BTreeMap::new();
    for process in table {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in by_parent.remove(&parent).into_iter().flatten() {
            parents.push(process.pid);
            found.push(process);
        }
    }
    found
}

/// SIGKILL to the only descendant of that name.
pub fn kill_only(name: &str) -> Result<()> {
    // The kernel keeps 15 bytes of it.
    let short = &name[..name.len().min(15)];
    let all: Vec<_> = descendants().into_iter().filter(|process| process.name == short).collect();
    ensure!(all.len() == 1 && all[0].pid > 1, "not one {name}: {all:?}");
    kill(Pid::from_raw(all[0].pid as i32), Signal::SIGKILL).with_context(|| format!("kill {name}"))
}

/// Ends all descendants that no test holds. For the way out of a test that failed.
pub fn end_descendants() -> Result<()> {
    wait::until("end of all descendants", wait::LIMIT, || {
        let left = descendants();
        for process in left.iter().filter(|process| process.state != 'Z' && process.pid > 1) {
            let _ = kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL);
        }
        Ok(left.is_empty().then_some(()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descent_goes_over_generations() {
        let process = |pid, parent| Stat { pid, parent, state: 'S', name: String::new() };
        let table = vec![process(1, 0), process(5, 1), process(6, 5), process(7, 6), process(8, 1)];
        let mut pids: Vec<u32> = below(5, table).into_iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [6, 7]);
    }
}
