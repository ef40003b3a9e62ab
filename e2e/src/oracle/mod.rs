//! What is there: namespaces, links, addresses, rules, mounts, cgroups, processes, descriptors and state files. One
//! look before a test and one after it tell what was left behind.
//!
//! Every fact is a line of text, so that two looks compare as sets and a leak names itself. Looks are repeated until
//! they agree or a bound is reached: a kernel frees namespaces and links some time after their last user went. A
//! zombie is a process like any other.

mod cgroups;
mod files;
mod mounts;
mod network;
mod processes;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Result, bail};

use crate::{place, wait};

/// One look.
pub type Facts = BTreeSet<String>;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The test's directory.
    pub dir: PathBuf,
    /// Directories whose files are counted.
    pub directories: Vec<PathBuf>,
    /// The agent, whose descriptors are counted.
    pub agent: Option<u32>,
    /// Parent of its cgroups.
    pub cgroup: Option<String>,
    /// Whether the test has a network namespace of its own.
    pub ours: bool,
}

/// The first look.
#[derive(Debug)]
pub struct Oracle {
    scope: Scope,
    before: Facts,
}

impl Oracle {
    /// Looks at all.
    pub fn look(scope: Scope) -> Result<Self> {
        let before = facts(&scope)?;
        Ok(Self { scope, before })
    }

    /// After a restart the agent has another pid.
    pub fn agent_is_now(&mut self, agent: Option<u32>) {
        self.scope.agent = agent;
    }

    /// Fails with a list if anything is there that was not there before.
    pub fn nothing_left(&self) -> Result<()> {
        let mut left = Facts::new();
        let settled = wait::until("the machine to be as before", wait::LIMIT, || {
            left = facts(&self.scope)?.difference(&self.before).cloned().collect();
            Ok(left.is_empty().then_some(()))
        });
        if settled.is_err() && !left.is_empty() {
            let lines: Vec<String> = left.into_iter().collect();
            bail!("left behind:\n  {}", lines.join("\n  "));
        }
        settled
    }

    /// What is there now and was not before: for tests that look at what a pod costs.
    pub fn new_facts(&self) -> Result<Facts> {
        Ok(facts(&self.scope)?.difference(&self.before).cloned().collect())
    }
}

impl Scope {
    /// Takes away what a failed test left: mounts below its directory, its cgroups.
    pub fn sweep(&self) {
        mounts::sweep(&self.dir);
        if let Some(parent) = &self.cgroup {
            cgroups::sweep(parent);
        }
    }

    /// Whether a thing that cannot be told to be ours counts: not while others work on this machine.
    fn counts_strangers() -> bool {
        !place::crowded()
    }
}

fn facts(scope: &Scope) -> Result<Facts> {
    let mut facts = Facts::new();
    processes::look(scope, &mut facts);
    mounts::look(scope, &mut facts);
    cgroups::look(scope, &mut facts);
    files::look(scope, &mut facts);
    if scope.ours {
        network::look(&mut facts)?;
    }
    Ok(facts)
}

/// Adds lines that may come several times, with a number for each.
fn add_counted(facts: &mut Facts, lines: impl IntoIterator<Item = String>) {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    let mut number = 0;
    for at in 0..lines.len() {
        number = if at > 0 && lines[at] == lines[at - 1] { number + 1 } else { 1 };
        facts.insert(format!("{} #{number}", lines[at]));
    }
}
