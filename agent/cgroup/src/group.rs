//! Making and removing groups as directories.
//!
//! cgroups-rs can make and delete a group in all hierarchies, but does not say which directories it made, ignores what
//! it could not enable, and does not delete children: so this is done here.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_sys::failpoint;
use rustix::{fs::OFlags, io::Errno};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Mode,
    error::Failures,
    files::{GroupDir, subdirectories},
    kill,
    layout::{Hierarchy, Layout},
    parse, wait,
};

/// Says on a directory above the containers that we made it. With it the last pod below takes it away, whoever came
/// first, and a directory that an operator made stays.
const MARK: &str = "trusted.holdfast.made";
const MAX_DEPTH: usize = 64;
const MAX_RACES: usize = 16;
/// Exiting processes keep their group busy for moments.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// What was made above and for a group, oldest first: to be kept in a record, and removed by
/// [`crate::Cgroups::remove_made`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// Directories.
    pub dirs: Vec<PathBuf>,
    /// Those of `dirs` that were not there when this was planned: ours even without the mark, which comes after mkdir.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<PathBuf>,
    /// systemd's slices.
    pub units: Vec<String>,
}

impl Made {
    /// Nothing was made.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.units.is_empty()
    }
}

/// Descriptors of a group, for a process that is to enter it.
#[derive(Debug, Default)]
pub struct Entry {
    /// v2 and hybrid: the directory in the unified hierarchy, for CLONE_INTO_CGROUP.
    pub dir: Option<OwnedFd>,
    /// v1 and hybrid: the `tasks` files, open for writing; each takes `0` from the single-threaded process itself.
    pub tasks: Vec<OwnedFd>,
    /// `memory.events` or `memory.oom_control`, open for reading.
    pub oom_count: Option<OwnedFd>,
    /// What was made.
    pub made: Made,
    /// Nothing was made yet: start the process, then call [`crate::Cgroups::place`].
    pub for_placement: bool,
}

/// Makes the pod-level group `path` where it is missing, and marks what was made.
///
/// The answer lists every marked directory of the path, also those that an earlier pod made.
pub(crate) fn make_pod(layout: &Layout, path: &str) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    let result =
        layout.hierarchies.iter().try_for_each(|hierarchy| make_path(hierarchy, path, true, &mut made));
    if let Err(error) = result.and_then(|()| enable_controllers(layout, path)) {
        undo(&made);
        return Err(error);
    }
    Ok(marked(layout, path))
}

/// Makes a container's group. Parents that are missing are made and marked.
pub(crate) fn make(layout: &Layout, path: &str) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    let result = layout.hierarchies.iter().try_for_each(|hierarchy| {
        let before = made.len();
        make_path(hierarchy, path, false, &mut made)?;
        if made.len() == before { refuse_used(hierarchy.dir(path)) } else { Ok(()) }
    });
    match result.and_then(|()| enable_controllers(layout, parent(path))) {
        Ok(()) => Ok(made),
        Err(error) => {
            undo(&made);
            Err(error)
        }
    }
}

pub(crate) fn make_path(
    hierarchy: &Hierarchy,
    path: &str,
    mark_last: bool,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
    let names: Vec<_> = path.split('/').filter(|name| !name.is_empty()).collect();
    // Another pod's end may take an empty parent away between two of our steps: then begin again.
    'again: for _ in 0..MAX_RACES {
        let mut dir = hierarchy.root.clone();
        for (index, name) in names.iter().enumerate() {
            dir.push(name);
            match mkdir(&dir) {
                Ok(()) => {
                    made.push(dir.clone());
                    if (mark_last || index + 1 < names.len()) && !mark(&dir) {
                        continue 'again;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => continue 'again,
                Err(errno) => return Err(Error::io("make cgroup", dir, errno)),
            }
            if cpuset && let Err(error) = fill_cpuset(&dir) {
                if error.is_gone() {
                    continue 'again;
                }
                return Err(error);
            }
        }
        return Ok(());
    }
    Err(Error::io("make cgroup", hierarchy.dir(path), Errno::NOENT))
}

fn mkdir(dir: &Path) -> rustix::io::Result<()> {
    failpoint::at("cgroup.group.mkdir").map_err(|error| errno(&error))?;
    rustix::fs::mkdir(dir, 0o755.into())
}

fn rmdir(dir: &Path) -> io::Result<()> {
    failpoint::at("cgroup.group.rmdir")?;
    std::fs::remove_dir(dir)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// v1: a group without CPUs or memory nodes takes no process (ENOSPC), and a new one has none.
fn fill_cpuset(dir: &Path) -> Result<(), Error> {
    let group = GroupDir::open(dir.to_owned())?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if group.read(file)?.trim().is_empty() {
            let above = GroupDir::open(dir.parent().unwrap_or(dir).to_owned())?.read(file)?;
            group.write(file, above.trim())?;
        }
    }
    Ok(())
}

/// `false`: it has been removed meanwhile, for a group that is planned but not marked yet is another pod's to remove as well.
fn mark(dir: &Path) -> bool {
    let set = || rustix::fs::setxattr(dir, MARK, b"1", rustix::fs::XattrFlags::empty());
    match failpoint::at("cgroup.group.mark").map_err(|error| errno(&error)).and_then(|()| set()) {
        Ok(()) => true,
        Err(Errno::NOENT | Errno::NODEV) => false,
        Err(errno) => {
            let dir = dir.display();
            tracing::warn!(%dir, %errno, "cannot mark a cgroup as ours: only the pod that it was made for removes it");
            true
        }
    }
}

fn is_marked(dir: &Path) -> bool {
    rustix::fs::getxattr(dir, MARK, &mut [0_u8; 8]).is_ok()
}

/// The directories of a path that carry our mark, oldest first.
fn marked(layout: &Layout, path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in &layout.hierarchies {
        let mut dir = hierarchy.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            dir.push(name);
            if is_marked(&dir) {
                found.push(dir.clone());
            }
        }
    }
    found
}

/// A group of that name with processes in it is not ours to take over.
fn refuse_used(path: PathBuf) -> Result<(), Error> {
    let count = parse::pids(&GroupDir::open(path.clone())?.read("cgroup.procs")?).len();
    if count > 0 { Err(Error::InUse { path, count }) } else { Ok(()) }
}

pub(crate) fn undo(made: &[PathBuf]) {
    for dir in made.iter().rev() {
        match rmdir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "undo of a cgroup");
            }
            _ => {}
        }
    }
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| parent)
}

/// v2: enables every controller that there is from the root down to `path` itself, in the groups that lack it. What
/// cannot be enabled is an error only when a limit needs it, which is found out when that is written. On hybrid hosts
/// the unified hierarchy's controllers are not ours to distribute.
///
/// A controller that is enabled in `path` is enabled in all groups above it: one look at it is enough for
/// every container but a parent's first. Not remembered, since systemd takes controllers away when it thinks
/// that nobody needs them.
pub(crate) fn enable_controllers(layout: &Layout, path: &str) -> Result<(), Error> {
    if layout.mode != Mode::V2 {
        return Ok(());
    }
    let Some(hierarchy) = layout.unified() else { return Ok(()) };
    let root = GroupDir::open(hierarchy.root.clone())?;
    let available = root.read("cgroup.controllers")?;
    let last = GroupDir::open(hierarchy.dir(path))?;
    if wanted(&available, &last.read(SUBTREE_CONTROL)?).is_empty() {
        return Ok(());
    }
    enable_in(&root)?;
    let mut dir = hierarchy.root.clone();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        dir.push(name);
        enable_in(&GroupDir::open(dir.clone())?)?;
    }
    Ok(())
}

/// The controllers of ours that are available and not enabled.
fn wanted(available: &str, enabled: &str) -> Vec<&'static str> {
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    CONTROLLERS.into_iter().filter(|name| has(available, name) && !has(enabled, name)).collect()
}

fn enable_in(group: &GroupDir) -> Result<(), Error> {
    let wanted = wanted(&group.read("cgroup.controllers")?, &group.read(SUBTREE_CONTROL)?);
    if wanted.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = wanted.iter().map(|name| format!("+{name}")).collect();
    if group.write(SUBTREE_CONTROL, all.join(" ")).is_ok() {
        return Ok(());
    }
    for one in all {
        // EBUSY: the group has processes of its own; ENOTSUP: it is threaded; ENOENT: a controller is just going.
        if let Err(error) = group.write(SUBTREE_CONTROL, &one) {
            let error = holdfast_model::chain(&error);
            tracing::debug!(dir = %group.path.display(), controller = one, error, "controller not enabled");
        }
    }
    Ok(())
}

/// Opens the descriptors of a group that exists.
pub(crate) fn open(layout: &Layout, path: &str) -> Result<Entry, Error> {
    let mut entry = Entry::default();
    for hierarchy in &layout.hierarchies {
        let dir = GroupDir::open(hierarchy.dir(path))?;
        if hierarchy.unified {
            entry.dir = Some(dir.fd);
        } else {
            entry.tasks.push(dir.open_file("tasks", OFlags::WRONLY)?);
        }
    }
    if let Some(dir) = layout.open("memory", path)? {
        let file = if layout.mode == Mode::V2 { "memory.events" } else { "memory.oom_control" };
        entry.oom_count = match dir.open_file(file, OFlags::RDONLY) {
            Ok(fd) => Some(fd),
            Err(error) if error.is_gone() => None,
            Err(error) => return Err(error),
        };
    }
    Ok(entry)
}

/// Removes a group with its children from every hierarchy. Goes on after a failure; not being there is success.
pub(crate) fn remove(layout: &Layout, path: &str) -> Result<(), Error> {
    assert!(path.len() > 1 && path.starts_with('/'), "the root is nobody's to remove");
    let deadline = Instant::now() + BUSY_LIMIT;
    let failures: Vec<_> = layout
        .hierarchies
        .iter()
        .filter_map(|hierarchy| remove_tree(hierarchy, &hierarchy.dir(path), 0, deadline).err())
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(Error::Remove(Failures(failures))) }
}

fn remove_tree(hierarchy: &Hierarchy, dir: &Path, depth: usize, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_millis(1);
    loop {
        let busy = match rmdir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        let is_busy =
            matches!(Errno::from_io_error(&busy), Some(Errno::BUSY | Errno::NOTEMPTY | Errno::AGAIN));
        let children = if is_busy && depth < MAX_DEPTH { subdirectories(dir)? } else { Vec::new() };
        for child in &children {
            remove_tree(hierarchy, child, depth + 1, deadline)?;
        }
        if !is_busy || Instant::now() >= deadline {
            return Err(still_there(dir, busy));
        }
        if children.is_empty() && !await_exits(hierarchy, dir, deadline)? {
            // Nobody is seen in it: the kernel has not finished with who was.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Why a group cannot be removed: who is in it, or else what the kernel said.
fn still_there(dir: &Path, error: io::Error) -> Error {
    let members =
        GroupDir::open(dir.to_owned()).and_then(|group| kill::members_of(&group)).unwrap_or_default();
    if members.is_empty() {
        return Error::io("remove cgroup", dir, error);
    }
    Error::Occupied { path: dir.to_owned(), left: kill::describe(&members) }
}

/// Waits until who keeps a group busy has left it. `false`: nobody is to be seen.
fn await_exits(hierarchy: &Hierarchy, dir: &Path, deadline: Instant) -> Result<bool, Error> {
    let group = match GroupDir::open(dir.to_owned()) {
        Ok(group) => group,
        Err(error) if error.is_gone() => return Ok(false),
        Err(error) => return Err(error),
    };
    let pids = match kill::members_of(&group) {
        Ok(members) => members.into_iter().map(|member| member.pid),
        Err(error) if error.is_gone() => return Ok(false),
        Err(error) => return Err(error),
    };
    if hierarchy.unified && pids.len() > 0 {
        return wait::until_empty(&group, deadline);
    }
    let open = |pid| holdfast_sys::pidfd::open(pid).ok();
    let processes: Vec<_> = pids.take(wait::MAX_AT_ONCE).filter_map(open).collect();
    wait::until_ended(&processes, deadline.saturating_duration_since(Instant::now()))?;
    Ok(!processes.is_empty())
}

/// Removes directories that are marked, or were not there when they were planned, and have nothing below them, newest
/// first.
pub(crate) fn remove_made(layout: &Layout, made: &Made) -> Result<(), Error> {
    let mut failures = Vec::new();
    for dir in made.dirs.iter().rev() {
        let ours = layout.hierarchies.iter().any(|hierarchy| {
            dir.strip_prefix(&hierarchy.root).is_ok_and(|rest| {
                rest.components().count() > 0
                    && rest.components().all(|part| matches!(part, std::path::Component::Normal(_)))
            })
        });
        // A shared parent stays as long as another pod is in it. One that was there before the plan and has no mark is
        // somebody else's.
        let planned = made.missing.contains(dir);
        if !ours
            || !(planned || is_marked(dir))
            || subdirectories(dir).is_ok_and(|children| !children.is_empty())
        {
            continue;
        }
        match rmdir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A child that was made since.
            Err(_) if subdirectories(dir).is_ok_and(|children| !children.is_empty()) => {}
            Err(error) => failures.push(Error::io("remove cgroup", dir, error)),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Remove(Failures(failures))) }
}

/// What [`make_pod`] would make of a pod's group now.
pub(crate) fn plan(layout: &Layout, path: &str) -> Made {
    let mut plan = Made::default();
    for hierarchy in &layout.hierarchies {
        let mut dir = hierarchy.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            dir.push(name);
            if is_marked(&dir) {
                plan.dirs.push(dir.clone());
            } else if is_missing(&dir) {
                plan.dirs.push(dir.clone());
                plan.missing.push(dir.clone());
            }
        }
    }
    plan
}

/// Certainly not there: what cannot be looked at is not ours.
fn is_missing(dir: &Path) -> bool {
    matches!(rustix::fs::stat(dir), Err(Errno::NOENT))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "group_tests.rs"]
mod tests;
