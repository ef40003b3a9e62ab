//! Journal of the agent's answers with their positions in the log of writes: what was told before a cut must still be so after it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Something that was told or asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// PullImage answered.
    Pulled(String),
    /// RemoveImage is about to be asked.
    RemovingImage(String),
    /// RemoveImage answered.
    ImageRemoved(String),
    /// A container was shown as EXITED.
    Exited {
        /// Its id.
        id: String,
        /// Its pod's.
        pod: String,
        /// Its code, if it ended by itself: one that was stopped may have none after a cut.
        code: Option<i32>,
    },
    /// RemoveContainer, or RemovePodSandbox of its pod, is about to be asked.
    RemovingContainer(String),
    /// The same answered.
    ContainerRemoved(String),
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Entries that the log had then, at the least: read after an answer, and before a request.
    pub at: u64,
    /// The answer or request.
    pub what: What,
}

/// In the order in which things happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal(pub Vec<Line>);

/// A container that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its pod, which is there as well.
    pub pod: String,
    /// Its code, if that was told for good.
    pub code: Option<i32>,
}

/// State that must be found after a cut, and removals that may be undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promises {
    /// Images that are there.
    pub images: BTreeSet<String>,
    /// Containers that are EXITED.
    pub exited: BTreeMap<String, Ended>,
    /// Images and containers that were told as removed, and would be there again.
    pub removed: BTreeSet<String>,
}

impl Journal {
    /// Promises that hold at a position.
    pub fn promises(&self, at: u64) -> Promises {
        let mut told = Promises::default();
        for line in self.0.iter().filter(|line| line.at <= at) {
            match line.what.clone() {
                What::Pulled(name) => {
                    told.removed.remove(&name);
                    told.images.insert(name);
                }
                What::RemovingImage(name) => drop(told.images.remove(&name)),
                What::Exited { id, pod, code } => {
                    let ended = told.exited.entry(id).or_insert(Ended { pod, code });
                    ended.code = ended.code.or(code);
                }
                What::RemovingContainer(id) => drop(told.exited.remove(&id)),
                What::ImageRemoved(name) | What::ContainerRemoved(name) => drop(told.removed.insert(name)),
            }
        }
        told
    }

    /// Positions at which something was told that must stay so.
    pub fn told(&self) -> Vec<u64> {
        let is_promise = |line: &&Line| matches!(line.what, What::Pulled(_) | What::Exited { .. });
        self.0.iter().filter(is_promise).map(|line| line.at).collect()
    }
}

/// A journal that is being written, by several clients of one thread.
#[derive(Debug)]
pub struct Writer<'a> {
    log: &'a std::path::Path,
    lines: RefCell<Journal>,
}

impl<'a> Writer<'a> {
    /// An empty one. `log`: the log of writes.
    pub fn new(log: &'a std::path::Path) -> Self {
        Self { log, lines: RefCell::default() }
    }

    /// Writes down what has been told, or what is about to be asked.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn note(&self, what: What) -> Result<()> {
        let at = crate::log::position(self.log)?;
        self.lines.borrow_mut().0.push(Line { at, what });
        Ok(())
    }

    /// All of it.
    pub fn done(self) -> Journal {
        self.lines.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_from_its_answer_to_the_next_request() {
        let line = |at, what| Line { at, what };
        let exited = |code| What::Exited { id: "c".into(), pod: "p".into(), code };
        let journal = Journal(vec![
            line(10, What::Pulled("a".into())),
            line(12, exited(Some(7))),
            line(15, exited(None)),
            line(20, What::RemovingImage("a".into())),
            line(22, What::RemovingContainer("c".into())),
            line(25, What::ImageRemoved("a".into())),
        ]);
        assert_eq!(journal.promises(9), Promises::default());
        assert!(journal.promises(10).images.contains("a"));
        let ended = Ended { pod: "p".into(), code: Some(7) };
        assert_eq!(journal.promises(19).exited, BTreeMap::from([("c".to_owned(), ended)]));
        assert!(journal.promises(20).images.is_empty());
        assert!(journal.promises(22).exited.is_empty());
        assert!(journal.promises(25).removed.contains("a"));
        assert_eq!(journal.told(), [10, 12, 15]);
    }
}
