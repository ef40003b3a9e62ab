//! Mounts of this thread's mount namespace, of every process that descends from us, holders among them, and of all others those
//! that have our name; pinned network namespaces.

use std::{collections::BTreeSet, fs, path::Path};

use nix::mount::{MntFlags, umount2};

use super::{Look, Scope};
use crate::process::{descendants, strangers};

/// Directory in which iproute2 and container runtimes pin network namespaces.
const NETNS: &str = "/run/netns";
/// This thread: a test's has a mount namespace of its own, perhaps, and `self` would be that of the first thread.
const SELF: &str = "thread-self";

pub fn look(scope: &Scope, look: &mut Look) {
    let own = namespace(SELF);
    let dir = scope.dir.to_string_lossy().into_owned();
    // Whoever pins the first namespace of a boot makes that directory a mount, and nobody unmakes it.
    let once = format!("{NETNS} ");
    for mount in table(SELF).into_iter().filter(|mount| !mount.starts_with(&once)) {
        let facts = if mount.contains(&dir) { &mut look.ours } else { &mut look.elsewhere };
        facts.insert(format!("mount {mount}"));
    }
    let mut seen = BTreeSet::from([own]);
    for process in descendants().into_iter().map(|process| process.pid).chain(scope.agent) {
        let pid = process.to_string();
        let namespace = namespace(&pid);
        if namespace.is_empty() || !seen.insert(namespace.clone()) {
            continue;
        }
        look.ours.extend(table(&pid).into_iter().map(|mount| format!("mount in {namespace}: {mount}")));
    }
    // A mount that has reached a stranger's namespace keeps its file system busy there.
    for process in strangers() {
        let pid = process.pid.to_string();
        let namespace = namespace(&pid);
        if !dir.is_empty() && !namespace.is_empty() && seen.insert(namespace.clone()) {
            let ours = table(&pid).into_iter().filter(|mount| mount.contains(&dir));
            look.ours.extend(ours.map(|mount| format!("mount in {namespace}: {mount}")));
        }
    }
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        look.elsewhere.insert(format!("file {}", entry.path().display()));
    }
}

/// Takes mounts below `dir` away, those on top first.
pub fn sweep(dir: &Path) {
    let prefix = format!("{}/", dir.display());
    let text = fs::read_to_string(format!("/proc/{SELF}/mountinfo")).unwrap_or_default();
    for line in text.lines().rev() {
        if let Some(point) = line.split(' ').nth(4).filter(|point| point.starts_with(&prefix)) {
            let _ = umount2(Path::new(point), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
    }
}

fn namespace(pid: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/mnt"))
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Mounts as `point root type source`, without the numbers that each mount has of its own (proc_pid_mountinfo(5)).
fn table(pid: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let line = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let head: Vec<&str> = head.split(' ').collect();
        let tail: Vec<&str> = tail.split(' ').collect();
        Some(format!("{} {} {} {}", head.get(4)?, head.get(3)?, tail.first()?, tail.get(1)?))
    };
    text.lines().filter_map(line).collect()
}
