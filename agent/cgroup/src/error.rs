//! What can go wrong with a control group.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Whose fault an [`Error`] is, which decides the gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request names something that cannot be.
    Invalid,
    /// The group is not there.
    NotFound,
    /// The group is not in a state for it.
    Precondition,
    /// A limit of time passed.
    Timeout,
    /// The kernel, systemd or we failed.
    Internal,
}

/// An operation on a control group that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the request that cannot be.
    #[error("{field} {value:?} {problem}")]
    InvalidArgument {
        /// The field, in CRI's or the configuration's words.
        field: String,
        /// What it says.
        value: String,
        /// What is wrong with it and what to change.
        problem: String,
    },
    /// No cgroup file system was found.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    NotMounted,
    /// The systemd driver was asked for on a host without systemd.
    #[error(
        "cgroup_driver is systemd, but systemd does not run here (no /run/systemd/system); set it to cgroupfs"
    )]
    NoSystemd,
    /// A file operation.
    #[error("{operation} {}", path.display())]
    Io {
        /// `write 100 to`, `make`, ...
        operation: String,
        /// Of which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The group does not exist (any more).
    #[error("cgroup {group} does not exist")]
    NotFound {
        /// Which.
        group: String,
    },
    /// The group is there already and holds processes.
    #[error("cgroup {} exists already and holds {count} processes", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A controller that a limit needs cannot be had.
    #[error("{field} needs the {controller} controller, which is not there in cgroup {group}{hint}")]
    NoController {
        /// What needs it.
        field: String,
        /// Which controller.
        controller: String,
        /// Where.
        group: String,
        /// Why not, as far as known.
        hint: String,
    },
    /// The memory limit is below what is in use and cannot be reclaimed.
    #[error(
        "memory_limit_in_bytes {limit} is below what cgroup {group} uses ({usage}); it was left as it is"
    )]
    BelowUsage {
        /// The limit that was asked for.
        limit: i64,
        /// The group.
        group: String,
        /// Bytes that are in use.
        usage: u64,
    },
    /// Processes would not die.
    #[error(
        "kill cgroup {group}: after {waited:?} these processes are still there: {}{}", left.join(", "), frozen(frozen_by.as_deref())
    )]
    KillTimeout {
        /// The group.
        group: String,
        /// How long we waited.
        waited: Duration,
        /// Some of them: pid, command, state.
        left: Vec<String>,
        /// A group above that is frozen (v1), so that nothing in it dies.
        frozen_by: Option<PathBuf>,
    },
    /// A group that was to be removed still has processes.
    #[error("remove cgroup {}: these processes are still in it: {}", path.display(), left.join(", "))]
    Occupied {
        /// Which.
        path: PathBuf,
        /// Some of them: pid, command, state.
        left: Vec<String>,
    },
    /// Several removals failed; the others were done.
    #[error("remove cgroup: {0}")]
    Remove(Failures),
    /// systemd takes a value not, and says which.
    #[error("systemd: {operation} {unit} was refused: {text}")]
    Refused {
        /// `StartTransientUnit` ...
        operation: &'static str,
        /// Of which unit.
        unit: String,
        /// systemd's own words.
        text: String,
    },
    /// The process that was to be placed has ended meanwhile.
    #[error("process {pid}, which was to be placed in a cgroup, has ended")]
    Ended {
        /// Its number of before.
        pid: i32,
    },
    /// A call to systemd failed.
    #[error("systemd: {operation} {unit}")]
    Dbus {
        /// `StartTransientUnit` ...
        operation: &'static str,
        /// Of which unit.
        unit: String,
        /// Why.
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd's job ended with something else than `done`.
    #[error("systemd: the job to start {unit} ended with {result:?}; `journalctl -u {unit}` says why")]
    Job {
        /// The unit.
        unit: String,
        /// systemd's word for it.
        result: String,
    },
    /// Something took too long.
    #[error("{stage}: no answer within {limit:?}")]
    Timeout {
        /// What we waited for.
        stage: String,
        /// How long.
        limit: Duration,
    },
    /// The process is not where it should be.
    #[error("process {pid} is in cgroup {found}, not in {expected}")]
    Misplaced {
        /// The process.
        pid: i32,
        /// Where it should be.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// A blocking task of ours was cancelled or panicked.
    #[error("{0} was cut short")]
    Cut(&'static str),
}

fn frozen(by: Option<&Path>) -> String {
    by.map(|by| format!("; {} is frozen: thaw it", by.display())).unwrap_or_default()
}

/// The errors of a teardown that went on.
#[derive(Debug)]
pub struct Failures(pub Vec<Error>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "; " } else { "" })?;
            write!(f, "{error}")?;
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                write!(f, ": {inner}")?;
                cause = inner.source();
            }
        }
        Ok(())
    }
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::InvalidArgument { .. } | Self::NoController { .. } | Self::Refused { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::BelowUsage { .. } | Self::InUse { .. } => Kind::Precondition,
            Self::KillTimeout { .. } | Self::Occupied { .. } | Self::Timeout { .. } => Kind::Timeout,
            _ => Kind::Internal,
        }
    }

    pub(crate) fn invalid(field: &str, value: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::InvalidArgument { field: field.into(), value: value.to_string(), problem: problem.into() }
    }

    pub(crate) fn io(
        operation: impl Into<String>,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation: operation.into(), path: path.into(), source: source.into() }
    }

    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// A lack of descriptors or memory, which may be over at the next try.
    pub(crate) fn is_passing(&self) -> bool {
        use rustix::io::Errno;
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
        self.errno().is_some_and(|errno| passing.iter().any(|one| one.raw_os_error() == errno))
    }

    /// Nothing there: a missing file, or one of a group that is being removed (ENODEV).
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. })
            || self.errno().is_some_and(|errno| errno == rustix::io::Errno::NOENT.raw_os_error())
            || self.errno().is_some_and(|errno| errno == rustix::io::Errno::NODEV.raw_os_error())
    }
}
