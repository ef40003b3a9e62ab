//! Killing everything in a group.
//!
//! v2 has `cgroup.kill` (Linux 5.14), which forks cannot escape. Where it is not there or is refused (EOPNOTSUPP of a
//! threaded group, EACCES and EROFS of a mount that is not ours to write): no more forks by pids.max, then every pid by its
//! pidfd, again and again until nothing is left. The group is never frozen: should we die meanwhile, it would stay.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_sys::failpoint;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    Error, Mode,
    files::{GroupDir, read_file, subdirectories},
    layout::Layout,
    location::Location,
    parse, wait,
};

const LIMIT: Duration = Duration::from_secs(10);
/// Processes that do not end within this are signalled again, with those that came meanwhile.
const ROUND: Duration = Duration::from_millis(100);
const MAX_DEPTH: usize = 64;
const MAX_NAMED: usize = 16;

/// A process of a group, by one of its threads that is in it: usually the first, whose number is the process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub pid: i32,
    thread: i32,
}

/// SIGKILL to all; returns when nobody is left. Not being there is success.
pub(crate) fn kill(layout: &Layout, location: &Location) -> Result<(), Error> {
    let path = location.path();
    assert!(path.len() > 1, "the root is nobody's to kill");
    let deadline = Instant::now() + LIMIT;
    match by_kernel(layout, path)? {
        Some(dir) if layout.mode == Mode::V2 => {
            if wait::until_empty(&dir, deadline)? {
                return Ok(());
            }
        }
        // On a hybrid host processes may be in v1's groups and not in that one.
        Some(_) => {}
        None => stop_forks(layout, location),
    }
    one_by_one(layout, path, deadline)
}

/// Writes `cgroup.kill` and returns its group. `None`: there is none, or it was refused.
fn by_kernel(layout: &Layout, path: &str) -> Result<Option<GroupDir>, Error> {
    const FILE: &str = "cgroup.kill";
    let Some(unified) = layout.unified() else { return Ok(None) };
    let dir = match GroupDir::open(unified.dir(path)) {
        Ok(dir) => dir,
        Err(error) if error.is_gone() || error.is_passing() => return Ok(None),
        Err(error) => return Err(error),
    };
    match dir.write(FILE, "1") {
        Ok(()) => Ok(Some(dir)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => {
            tracing::warn!(group = path, error = holdfast_model::chain(&error), "killed one by one");
            Ok(None)
        }
    }
}

/// Best effort against fork bombs: a container's group only has to die, while a pod's may go on.
fn stop_forks(layout: &Layout, location: &Location) {
    if location.is_pod() {
        return;
    }
    if let Ok(Some(dir)) = layout.open("pids", location.path()) {
        holdfast_sys::cgroup::stop_forks(&dir.fd);
    }
}

fn one_by_one(layout: &Layout, path: &str, deadline: Instant) -> Result<(), Error> {
    loop {
        match round(layout, path, deadline) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // No descriptor or no memory at the moment.
            Err(error) if error.is_passing() && Instant::now() < deadline => std::thread::sleep(ROUND),
            Err(error) => return Err(error),
        }
    }
}

/// Signals all that are there and waits a little for their end; whether nobody was there.
fn round(layout: &Layout, path: &str, deadline: Instant) -> Result<bool, Error> {
    let left = members(layout, path)?;
    if left.is_empty() {
        return Ok(true);
    }
    let rest = deadline.saturating_duration_since(Instant::now());
    if rest.is_zero() {
        let (group, left, frozen_by) = (path.to_owned(), describe(&left), frozen_above(layout, path));
        return Err(Error::KillTimeout { group, waited: LIMIT, left, frozen_by });
    }
    let mut dying = Vec::new();
    for member in left {
        let process = kill_one(member, path)?;
        dying.extend(process.filter(|_| dying.len() < wait::MAX_AT_ONCE));
    }
    thaw(layout, path);
    if dying.is_empty() {
        // They have just left by themselves, or are threads that wait for the last one of their process.
        std::thread::sleep(rest.min(Duration::from_millis(1)));
    }
    wait::until_ended(&dying, rest.min(ROUND))?;
    Ok(false)
}

/// A pid can have been given to another process since it was read: the pidfd holds one process, and only if that one is
/// in the group it gets the signal. Returns the pidfd of who got it.
fn kill_one(member: Member, group: &str) -> Result<Option<OwnedFd>, Error> {
    let Member { pid, thread } = member;
    // The number is looked at first: `from_raw` asserts that it is not negative.
    let target = (pid > 1).then(|| Pid::from_raw(pid)).flatten();
    let Some(target) = target.filter(|target| *target != rustix::process::getpid()) else { return Ok(None) };
    let fd = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io("open pidfd of", format!("/proc/{pid}"), errno)),
    };
    let text = match read_file(Path::new(&format!("/proc/{pid}/task/{thread}/cgroup"))) {
        Ok(text) => text,
        Err(error) if error.is_gone() || error.errno() == Some(Errno::SRCH.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !parse::memberships(&text).iter().any(|membership| is_within(membership.path, group)) {
        return Ok(None);
    }
    let failed = |error: io::Error| Error::io("kill", format!("/proc/{pid}"), error);
    failpoint::at("cgroup.process.kill").map_err(failed)?;
    match pidfd_send_signal(&fd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(Some(fd)),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Whether a path that /proc shows is the group or below it. The two may differ by a prefix when this process is in a
/// cgroup namespace (`/../..`) or the mount shows only a part of the hierarchy; ids make the names unique.
pub(crate) fn is_within(shown: &str, group: &str) -> bool {
    shown.match_indices(group).any(|(at, _)| {
        let rest = &shown[at + group.len()..];
        rest.is_empty() || rest.starts_with('/')
    })
}

/// A frozen v1 group keeps its processes from dying.
fn thaw(layout: &Layout, path: &str) {
    let Some(hierarchy) = layout.of("freezer").filter(|_| layout.mode != Mode::V2) else { return };
    if let Ok(dir) = GroupDir::open(hierarchy.dir(path)) {
        holdfast_sys::cgroup::thaw(&dir.fd);
    }
}

/// The group above that somebody has frozen. It is not ours to thaw: others may be in it.
fn frozen_above(layout: &Layout, path: &str) -> Option<PathBuf> {
    let hierarchy = layout.of("freezer").filter(|_| layout.mode != Mode::V2)?;
    let dir = hierarchy.dir(path);
    let above = dir.ancestors().skip(1).take_while(|dir| dir.starts_with(&hierarchy.root));
    let is_frozen =
        |dir: &&Path| read_file(&dir.join("freezer.self_freezing")).is_ok_and(|text| text.trim() == "1");
    above.into_iter().find(is_frozen).map(Path::to_owned)
}

/// Some of the processes as an error names them: pid, command and state. One in state D waits in the kernel, and does not
/// die before that wait ends.
pub(crate) fn describe(members: &[Member]) -> Vec<String> {
    members.iter().take(MAX_NAMED).map(|member| describe_one(member.pid)).collect()
}

fn describe_one(pid: i32) -> String {
    let stat = read_file(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    // The command may have parentheses and blanks of its own.
    let named = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") "));
    match named {
        Some((command, rest)) => format!("{pid} ({command}, state {})", rest.get(..1).unwrap_or("?")),
        None => pid.to_string(),
    }
}

/// The processes of the group and its children, in any hierarchy, sorted.
pub(crate) fn pids(layout: &Layout, path: &str) -> Result<Vec<i32>, Error> {
    Ok(members(layout, path)?.into_iter().map(|member| member.pid).collect())
}

/// Each process once.
fn members(layout: &Layout, path: &str) -> Result<Vec<Member>, Error> {
    let mut found = Vec::new();
    for hierarchy in &layout.hierarchies {
        for dir in tree(&hierarchy.dir(path))? {
            match GroupDir::open(dir).and_then(|dir| members_of(&dir)) {
                Ok(members) => found.extend(members),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
    }
    found.sort_unstable();
    found.dedup_by_key(|member| member.pid);
    Ok(found)
}

/// The processes of one group in one hierarchy.
pub(crate) fn members_of(dir: &GroupDir) -> Result<Vec<Member>, Error> {
    match dir.read("cgroup.procs") {
        Ok(text) => Ok(parse::pids(&text).into_iter().map(|pid| Member { pid, thread: pid }).collect()),
        // A threaded group lists threads only. Those whose processes end meanwhile belong to nobody.
        Err(error) if error.errno() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            let threads = parse::pids(&dir.read("cgroup.threads")?);
            Ok(threads.into_iter().filter_map(process_of).collect())
        }
        Err(error) => Err(error),
    }
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Option<Member> {
    let status = read_file(Path::new(&format!("/proc/{thread}/status"))).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())?;
    Some(Member { pid, thread })
}

/// Paths of the groups, in any hierarchy, that have `id` in their own name; those below one of them are left out.
pub(crate) fn named(layout: &Layout, id: &str) -> Result<Vec<String>, Error> {
    let mut found = BTreeSet::new();
    for hierarchy in &layout.hierarchies {
        for dir in tree(&hierarchy.root)? {
            let Ok(path) = dir.strip_prefix(&hierarchy.root) else { continue };
            let mut parts = path.iter().map(|part| part.to_string_lossy());
            let own = parts.next_back().is_some_and(|name| name.contains(id));
            if own && !parts.any(|name| name.contains(id)) {
                found.insert(format!("/{}", path.display()));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// A directory and those below it.
fn tree(top: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut all = vec![top.to_owned()];
    let mut level = all.clone();
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for dir in &level {
            match subdirectories(dir) {
                Ok(children) => next.extend(children),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        if next.is_empty() {
            break;
        }
        all.extend(next.iter().cloned());
        level = next;
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "kill_tests.rs"]
mod tests;
