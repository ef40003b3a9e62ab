//! cgroups of every hierarchy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Look, Scope};

pub fn look(scope: &Scope, look: &mut Look) {
    let parent = scope.cgroup.as_deref().map(name);
    for hierarchy in hierarchies() {
        walk(&hierarchy, &mut |group| {
            let text = group.to_string_lossy();
            let ours = parent.as_ref().is_some_and(|parent| text.contains(parent.as_str()));
            let facts = if ours { &mut look.ours } else { &mut look.elsewhere };
            facts.insert(format!("cgroup {text}"));
        });
    }
}

/// Removes the groups below and with a parent, deepest first. Their processes are gone by now.
pub fn sweep(parent: &str) {
    if parent.strip_suffix(".slice").is_some() {
        // systemd makes the groups of its units anew at every reload.
        let _ = crate::process::run(std::process::Command::new("systemctl").args(["stop", parent]));
    }
    let parent = name(parent);
    for hierarchy in hierarchies() {
        let mut groups = Vec::new();
        walk(&hierarchy, &mut |group| {
            if group.to_string_lossy().contains(&parent) {
                groups.push(group.to_owned());
            }
        });
        for group in groups.iter().rev() {
            let _ = fs::remove_dir(group);
        }
    }
}

/// The part of a parent's name that is in the path of all its groups.
fn name(parent: &str) -> String {
    parent.trim_start_matches('/').trim_end_matches(".slice").to_owned()
}

fn hierarchies() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        matches!(tail.split(' ').next()?, "cgroup" | "cgroup2")
            .then(|| head.split(' ').nth(4).map(PathBuf::from))?
    };
    let mut found: Vec<PathBuf> = text.lines().filter_map(mount).collect();
    found.sort();
    found.dedup();
    found
}

/// Parents before children.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}
