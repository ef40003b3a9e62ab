//! What an agent answers when it does not do what it was asked.

use std::{io, path::PathBuf};

use tonic::{Code, Status};

/// A request to an agent failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Something is there, but it cannot be spoken to.
    #[error("connect to the agent on {path:?}")]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent refused or failed.
    #[error("{operation}: {message} ({})", code.description())]
    Refused {
        /// What was asked for.
        operation: String,
        /// Its answer's code.
        code: Code,
        /// Its answer.
        message: String,
    },
    /// The agent's answer lacks what it has to hold.
    #[error("{operation}: the agent's answer holds no {what}")]
    Incomplete {
        /// What was asked for.
        operation: String,
        /// What is not there.
        what: &'static str,
    },
    /// The archive of an import cannot be read.
    #[error("read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    pub(super) fn refused(operation: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let operation = operation.into();
        move |status| Self::Refused { operation, code: status.code(), message: status.message().to_owned() }
    }

    /// Whether the thing that was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// Whether the request ran into its time limit.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Refused { code: Code::DeadlineExceeded, .. })
    }
}
