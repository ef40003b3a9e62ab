//! Processes that descend from the tests, the network namespaces that they keep, and the agent's descriptors.

use std::fs;

use super::{Facts, Scope, add_counted};
use crate::process::descendants;

pub fn look(scope: &Scope, facts: &mut Facts) {
    for process in descendants() {
        let pid = process.pid;
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let state = if process.state == 'Z' { "zombie" } else { "process" };
        facts.insert(format!("{state} {pid} {} {}", process.name, words.trim()));
        if let Some(namespace) = link(&format!("/proc/{pid}/ns/net")) {
            facts.insert(format!("netns {namespace}"));
        }
        let kept = descriptors(pid).into_iter().filter(|target| target.starts_with("net:["));
        facts.extend(kept.map(|namespace| format!("netns {namespace}")));
    }
    if let Some(agent) = scope.agent {
        let lines =
            descriptors(agent).into_iter().map(|target| format!("agent's descriptor {}", class(&target)));
        add_counted(facts, lines);
    }
}

/// What the descriptors of a process point to.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| link(&entry.path().to_string_lossy())).collect()
}

fn link(path: &str) -> Option<String> {
    Some(fs::read_link(path).ok()?.to_string_lossy().into_owned())
}

/// Sockets and pipes have numbers of their own each time: their kind counts.
fn class(target: &str) -> &str {
    match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind,
        _ => target,
    }
}
