//! Killing everything in a group.
//!
//! v2 has `cgroup.kill` (Linux 5.14), which forks cannot escape. Elsewhere: no more forks by pids.max, then every pid by
//! its pidfd, again and again until nothing is left. The group is never frozen: should we die meanwhile, it would stay.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    Error, Mode,
    files::{GroupDir, read_file, subdirectories},
    layout::Layout,
    location::Location,
    parse,
};

const LIMIT: Duration = Duration::from_secs(10);
const MAX_DEPTH: usize = 64;
const MAX_NAMED: usize = 16;

/// SIGKILL to all; returns when nobody is left. Not being there is success.
pub(crate) fn kill(layout: &Layout, location: &Location) -> Result<(), Error> {
    let path = location.path();
    assert!(path.len() > 1, "the root is nobody's to kill");
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    if let Some(unified) = layout.unified().filter(|_| layout.mode == Mode::V2) {
        match GroupDir::open(unified.dir(path)).and_then(|dir| dir.write("cgroup.kill", "1")) {
            Ok(()) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    } else if !location.is_pod()
        && let Some(dir) = layout.open("pids", path).unwrap_or(None)
    {
        // Best effort against fork bombs; the group only has to die.
        let _ = dir.write("pids.max", "0");
    }
    loop {
        let left = pids(layout, path)?;
        if left.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= LIMIT {
            let left = left.into_iter().take(MAX_NAMED).collect();
            return Err(Error::KillTimeout { group: path.to_owned(), waited: LIMIT, left });
        }
        for pid in left {
            kill_one(pid, path)?;
        }
        thaw(layout, path);
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A pid can have been given to another process since it was read: the pidfd holds one process, and only if that one is
/// in the group it gets the signal.
fn kill_one(pid: i32, group: &str) -> Result<(), Error> {
    // The number is looked at first: `from_raw` asserts that it is not negative.
    let target = (pid > 1).then(|| Pid::from_raw(pid)).flatten();
    let Some(target) = target.filter(|target| *target != rustix::process::getpid()) else { return Ok(()) };
    let fd = match pidfd_open(target, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH | Errno::INVAL) => return Ok(()),
        Err(errno) => return Err(Error::io("open pidfd of", format!("/proc/{pid}"), errno)),
    };
    let text = match read_file(Path::new(&format!("/proc/{pid}/cgroup"))) {
        Ok(text) => text,
        Err(error) if error.is_gone() || error.errno() == Some(Errno::SRCH.raw_os_error()) => return Ok(()),
        Err(error) => return Err(error),
    };
    if !parse::memberships(&text).iter().any(|membership| is_within(membership.path, group)) {
        return Ok(());
    }
    match pidfd_send_signal(&fd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::io("kill", format!("/proc/{pid}"), errno)),
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
    for dir in tree(&hierarchy.dir(path)).unwrap_or_default() {
        let _ = GroupDir::open(dir).and_then(|dir| match dir.read("freezer.state")?.trim() {
            "THAWED" => Ok(()),
            _ => dir.write("freezer.state", "THAWED"),
        });
    }
}

/// The processes of the group and its children, in any hierarchy, sorted.
pub(crate) fn pids(layout: &Layout, path: &str) -> Result<Vec<i32>, Error> {
    let mut found = Vec::new();
    for hierarchy in &layout.hierarchies {
        for dir in tree(&hierarchy.dir(path))? {
            match GroupDir::open(dir).and_then(|dir| dir.read("cgroup.procs")) {
                Ok(text) => found.extend(parse::pids(&text)),
                Err(error) if error.is_gone() => {}
                // A threaded child has no list of its own; its processes are in the domain's.
                Err(error) if error.errno() == Some(Errno::OPNOTSUPP.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
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
mod tests {
    use super::*;

    #[test]
    fn within_means_the_group_or_below() {
        assert!(is_within("/a/b", "/a/b") && is_within("/a/b/c", "/a/b") && is_within("/x/a/b", "/a/b"));
        assert!(!is_within("/a/bc", "/a/b") && !is_within("/", "/a/b") && !is_within("/a", "/a/b"));
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn no_other_process_than_a_member_is_signalled() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        // Group "" would hold every process: only the guard stands before this one's end.
        for pid in [-1, 0, own] {
            kill_one(pid, "").unwrap();
        }
        kill_one(rustix::process::getppid().unwrap().as_raw_nonzero().get(), "/holdfast-no-such-group")
            .unwrap();
    }
}
