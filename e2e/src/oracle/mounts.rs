//! Mounts of our own mount namespace and of every process that descends from us, holders among them; pinned network
//! namespaces.

use std::{collections::BTreeSet, fs, path::Path};

use nix::mount::{MntFlags, umount2};

use super::{Facts, Scope};
use crate::process::descendants;

pub fn look(scope: &Scope, facts: &mut Facts) {
    let own = namespace("self");
    let dir = scope.dir.to_string_lossy().into_owned();
    for mount in table("self") {
        let ours = mount.contains(&dir) || mount.contains(" /run/netns") || mount.contains(" nsfs ");
        if Scope::counts_strangers() || ours {
            facts.insert(format!("mount {mount}"));
        }
    }
    let mut seen = BTreeSet::from([own]);
    for process in descendants().into_iter().map(|process| process.pid).chain(scope.agent) {
        let pid = process.to_string();
        let namespace = namespace(&pid);
        if namespace.is_empty() || !seen.insert(namespace.clone()) {
            continue;
        }
        facts.extend(table(&pid).into_iter().map(|mount| format!("mount in {namespace}: {mount}")));
    }
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if Scope::counts_strangers()
            || scope.ours && entry.file_name().to_string_lossy().starts_with("holdfast")
        {
            facts.insert(format!("file /run/netns/{}", entry.file_name().to_string_lossy()));
        }
    }
}

/// Takes mounts below `dir` away, those on top first.
pub fn sweep(dir: &Path) {
    let prefix = format!("{}/", dir.display());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
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
