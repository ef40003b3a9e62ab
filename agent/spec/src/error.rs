//! Why a configuration cannot become a spec.

use std::{io, path::PathBuf};

/// A configuration that cannot be run. Fields are named by their CRI path below the message that carries them
/// (`linux.security_context.run_as_user`, `mounts[2].host_path`); those of an image begin with `image`.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The request says something that cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which field.
        field: String,
        /// What is wrong, and what to change.
        problem: String,
    },
    /// The request names something that this node does not have.
    #[error("{field}: {problem}")]
    NotFound {
        /// Which field.
        field: String,
        /// What is missing.
        problem: String,
    },
    /// This node cannot do what is asked for.
    #[error("{field}: {problem}")]
    Unsupported {
        /// Which field.
        field: String,
        /// What the node lacks.
        problem: String,
    },
    /// The node's own files could not be read.
    #[error("{operation} {}", path.display())]
    Host {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came of it.
        #[source]
        source: io::Error,
    },
}

/// Whose fault an error is, which decides the gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request's: it cannot be right on any node.
    InvalidArgument,
    /// The request names something that is not there.
    NotFound,
    /// The node is not made for it.
    Precondition,
    /// Ours, or the kernel's.
    Internal,
}

impl SpecError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unsupported { .. } => ErrorKind::Precondition,
            Self::Host { .. } => ErrorKind::Internal,
        }
    }
}

pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> SpecError {
    SpecError::Invalid { field: field.into(), problem: problem.into() }
}

pub(crate) fn not_found(field: impl Into<String>, problem: impl Into<String>) -> SpecError {
    SpecError::NotFound { field: field.into(), problem: problem.into() }
}

pub(crate) fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> SpecError {
    SpecError::Unsupported { field: field.into(), problem: problem.into() }
}
