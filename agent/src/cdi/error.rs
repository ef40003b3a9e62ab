//! Why a CDI device cannot be had.

use std::{fmt, io, path::PathBuf};

/// A CDI device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// The request names something that can be no device.
    #[error("{field}: {name:?} is no CDI device: {problem}; write vendor.com/class=name")]
    Name {
        /// Where in the request.
        field: String,
        /// As it came.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No spec file defines them.
    #[error("no CDI spec in {} defines {}{}", list(folders), names.join(", "), Unreadable(unreadable))]
    Unknown {
        /// The devices.
        names: Vec<String>,
        /// Where specs are looked for.
        folders: Vec<PathBuf>,
        /// Files that cannot be read at all, and why: they may be the ones.
        unreadable: Vec<(PathBuf, String)>,
    },
    /// Two files of one folder define it.
    #[error("CDI device {name} is defined by both {} and {}: remove one", first.display(), second.display())]
    Conflict {
        /// The device.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The file that defines it is wrong.
    #[error("CDI device {name} is defined by {}, which is no valid spec: {problem}", path.display())]
    BadSpec {
        /// The device.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder cannot be read.
    #[error("list the CDI specs in {}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Together the folders hold more than is read.
    #[error("the CDI specs in {} are more than {limit} {unit}: remove what is not needed", folder.display())]
    TooMuch {
        /// Where the limit was passed.
        folder: PathBuf,
        /// How many.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}

fn list(folders: &[PathBuf]) -> String {
    if folders.is_empty() {
        return "no folder (cdi.spec_dirs is empty)".to_owned();
    }
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

struct Unreadable<'a>(&'a [(PathBuf, String)]);

impl fmt::Display for Unreadable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, problem) in self.0 {
            write!(f, "; {} cannot be read: {problem}", path.display())?;
        }
        Ok(())
    }
}
