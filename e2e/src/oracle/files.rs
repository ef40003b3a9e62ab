//! Files below the agent's directories, by name.

use std::{fs, path::Path};

use super::{Facts, Scope};

/// One note, for good, that CNI has served here: what mode "auto" has to remember.
const NOTE: &str = "network/cni.json";

pub fn look(scope: &Scope, facts: &mut Facts) {
    for dir in &scope.directories {
        walk(dir, facts);
    }
}

fn walk(dir: &Path, facts: &mut Facts) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().ends_with(NOTE) {
            continue;
        }
        facts.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), facts);
        }
    }
}
