//! What is there: namespaces, links, addresses, rules, mounts, cgroups, processes, descriptors and state files. One
//! look before a test and one after it tell what was left behind.
//!
//! Every fact is a line of text, so that two looks compare as sets and a leak names itself. Looks are repeated until
//! they agree or a bound is reached: a kernel frees namespaces and links some time after their last user went. A
//! zombie is a process like any other.
//!
//! A fact is the test's own if it can be told to be: by its network namespace, its directory, its parent cgroup, the
//! descent of its processes, the ids in its agent's log. All else on the machine may be the work of others, Docker or
//! a kubelet perhaps. It counts as well while nobody else is seen at work (`neighbours`), and is only told otherwise.

mod cgroups;
mod files;
mod links;
mod mounts;
mod neighbours;
mod network;
mod processes;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::wait;

pub use neighbours::Neighbours;

/// Lines of one kind.
pub type Facts = BTreeSet<String>;

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Facts that are the test's own.
    pub ours: Facts,
    /// Facts that anybody on this machine may have made.
    pub elsewhere: Facts,
}

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
    /// Its log, whose ids are those of its pods and containers.
    pub log: Option<PathBuf>,
    /// Others at work on this machine.
    pub neighbours: Neighbours,
}

/// The first look.
#[derive(Debug)]
pub struct Oracle {
    scope: Scope,
    before: Look,
    limit: Duration,
}

impl Oracle {
    /// Looks at all.
    pub fn look(scope: Scope) -> Result<Self> {
        let before = look(&scope)?;
        Ok(Self { scope, before, limit: wait::LIMIT })
    }

    /// Waits less long than usual until nothing is left: for who knows that something is.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// After a restart the agent has another pid.
    pub fn agent_is_now(&mut self, agent: Option<u32>) {
        self.scope.agent = agent;
    }

    /// Fails with a list if anything is there that was not there before. What others may have made is printed as a
    /// note if somebody else is at work.
    pub fn nothing_left(&self) -> Result<()> {
        self.nothing_of_ours()?;
        self.nothing_elsewhere()
    }

    /// All that is there, was not there before, and stays: for who counts what is left. What others may have made is
    /// among it unless somebody else is at work.
    pub fn left(&self) -> Result<Facts> {
        let mut at_first = None;
        let mut left = Look::default();
        let settled = wait::until("the machine to be as before", self.limit, || {
            left = self.new_facts()?;
            at_first.get_or_insert_with(|| left.elsewhere.clone());
            Ok((left.ours.is_empty() && left.elsewhere.is_empty()).then_some(()))
        });
        if settled.is_ok() {
            return Ok(Facts::new());
        }
        let Some(who) = self.scope.neighbours.at_work(&at_first.unwrap_or_default(), &left.elsewhere) else {
            left.ours.append(&mut left.elsewhere);
            return Ok(left.ours);
        };
        if !left.elsewhere.is_empty() {
            println!("NOTE: {who}, so this does not count:\n  {}", lines(&left.elsewhere, NOTED));
        }
        Ok(left.ours)
    }

    fn nothing_of_ours(&self) -> Result<()> {
        let mut left = Facts::new();
        let settled = wait::until("the machine to be as before", self.limit, || {
            left = self.new_facts()?.ours;
            Ok(left.is_empty().then_some(()))
        });
        if settled.is_err() && !left.is_empty() {
            bail!("left behind:\n  {}", lines(&left, usize::MAX));
        }
        settled
    }

    fn nothing_elsewhere(&self) -> Result<()> {
        let mut left = Facts::new();
        // The test is over, so whatever comes from now on is not its own.
        let mut at_first = None;
        let settled = wait::until("the machine to be as before", self.limit, || {
            left = self.new_facts()?.elsewhere;
            if left.is_empty() {
                return Ok(Some(None));
            }
            let at_first = at_first.get_or_insert_with(|| left.clone());
            Ok(self.scope.neighbours.at_work(at_first, &left).map(Some))
        });
        match settled {
            Ok(None) => Ok(()),
            Ok(Some(who)) => {
                println!(
                    "NOTE: {who}, so this may be its own, and does not count:\n  {}",
                    lines(&left, NOTED)
                );
                Ok(())
            }
            Err(_) if !left.is_empty() => bail!(
                "left behind outside of this test's names, and nobody else is seen at work on this machine \
                 (if somebody is, say so with HOLDFAST_E2E_CROWDED=1):\n  {}",
                lines(&left, usize::MAX)
            ),
            Err(error) => Err(error),
        }
    }

    /// What is there now and was not before: for tests that look at what a pod costs.
    pub fn new_facts(&self) -> Result<Look> {
        let now = look(&self.scope)?;
        let mut new = Look {
            ours: now.ours.difference(&self.before.ours).cloned().collect(),
            elsewhere: now.elsewhere.difference(&self.before.elsewhere).cloned().collect(),
        };
        if !new.elsewhere.is_empty() {
            let ids = self.scope.ids();
            let (ours, elsewhere) = new.elsewhere.into_iter().partition(|fact| names_one(fact, &ids));
            new.elsewhere = elsewhere;
            new.ours.append(&mut { ours });
        }
        Ok(new)
    }
}

/// Facts that a note shows: with a busy neighbour there are many.
const NOTED: usize = 12;

fn lines(facts: &Facts, most: usize) -> String {
    let mut shown: Vec<String> = facts.iter().take(most).cloned().collect();
    if facts.len() > most {
        shown.push(format!("and {} more", facts.len() - most));
    }
    shown.join("\n  ")
}

impl Scope {
    /// Takes away what a failed test left: mounts below its directory, its cgroups.
    pub fn sweep(&self) {
        mounts::sweep(&self.dir);
        if let Some(parent) = &self.cgroup {
            cgroups::sweep(parent);
        }
    }

    /// Ids of pods and containers that the agent's log names.
    fn ids(&self) -> BTreeSet<String> {
        let read = |log: &Path| fs::read(log).unwrap_or_default();
        let text = self.log.as_deref().map(read).unwrap_or_default();
        ids(&String::from_utf8_lossy(&text))
    }
}

/// Words of 64 hexadecimal digits.
fn ids(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| is_id(word)).map(str::to_owned).collect()
}

fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn names_one(fact: &str, known: &BTreeSet<String>) -> bool {
    ids(fact).iter().any(|id| known.contains(id))
}

fn look(scope: &Scope) -> Result<Look> {
    let mut look = Look::default();
    processes::look(scope, &mut look.ours);
    mounts::look(scope, &mut look);
    cgroups::look(scope, &mut look);
    files::look(scope, &mut look.ours);
    links::look(&mut look.elsewhere);
    if scope.ours {
        network::look(&mut look.ours)?;
    }
    Ok(look)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_agent_s_log_make_a_fact_ours() {
        let (ours, other) = ("1a".repeat(32), "2b".repeat(32));
        let log = format!("INFO run{{pod_sandbox_id={ours}}}: made\nnot an id: {}\n", "3c".repeat(31));
        let known = ids(&log);
        assert_eq!(known, BTreeSet::from([ours.clone()]));
        assert!(names_one(&format!("file /run/netns/holdfast-{ours}"), &known));
        assert!(!names_one(&format!("file /run/netns/holdfast-{other}"), &known));
        assert!(!names_one("link of the host eth0", &known));
    }

    #[test]
    fn a_note_is_not_endless() {
        let facts: Facts = (10..15).map(|number| format!("cgroup /{number}")).collect();
        assert_eq!(lines(&facts, 2), "cgroup /10\n  cgroup /11\n  and 3 more");
        assert_eq!(lines(&facts, 5).lines().count(), 5);
    }
}
