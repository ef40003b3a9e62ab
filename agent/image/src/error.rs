//! What can go wrong with an image, in words that name the reference, registry or digest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

/// An operation of the image store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference cannot be parsed; the request has to change.
    #[error("image reference {reference:?}: {reason}")]
    InvalidReference {
        /// As it came.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has no such image.
    #[error("image {name:?} is not in the store: pull it first")]
    NoSuchImage {
        /// Reference or id, as it came.
        name: String,
    },
    /// The registry knows no such manifest or blob.
    #[error("{object} is not in registry {registry}: {reason}")]
    NotFound {
        /// Reference or digest.
        object: String,
        /// Host and port.
        registry: String,
        /// What the registry says.
        reason: String,
    },
    /// The registry answers 401.
    #[error("registry {registry} wants credentials for {object}: {reason}")]
    Unauthenticated {
        /// Reference or digest.
        object: String,
        /// Host and port.
        registry: String,
        /// Whether credentials are missing or wrong.
        reason: String,
    },
    /// The registry answers 403.
    #[error("registry {registry} denies access to {object}: {reason}")]
    Denied {
        /// Reference or digest.
        object: String,
        /// Host and port.
        registry: String,
        /// Whether credentials are missing or lack the right.
        reason: String,
    },
    /// The registry cannot be reached or is in trouble (connection refused, 5xx, 429). The prefix is kubelet's.
    #[error("RegistryUnavailable: registry {registry}: {operation}: {reason}")]
    Unavailable {
        /// Host and port.
        registry: String,
        /// What was asked.
        operation: String,
        /// Status or cause, without credentials.
        reason: String,
    },
    /// Bytes that do not have the digest that names them.
    #[error("{object}: digest is {actual} instead of {expected}")]
    DigestMismatch {
        /// Manifest, configuration or layer and where it came from.
        object: String,
        /// What the descriptor says.
        expected: String,
        /// What came.
        actual: String,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{object}: size is {actual} instead of {expected} bytes")]
    SizeMismatch {
        /// Manifest, configuration or layer and where it came from.
        object: String,
        /// Bytes of the descriptor.
        expected: u64,
        /// Bytes that came; for an endless body the first count that was too high.
        actual: u64,
    },
    /// No progress for the configured time.
    #[error("{object}: no progress for {timeout:?} while waiting for {stage}")]
    Stalled {
        /// Reference or digest.
        object: String,
        /// What was waited for.
        stage: String,
        /// The limit.
        timeout: Duration,
    },
    /// Something is larger than the store takes.
    #[error("{object} is larger than the limit of {limit} {unit}")]
    TooLarge {
        /// What.
        object: String,
        /// The limit.
        limit: u64,
        /// bytes, entries, ...
        unit: &'static str,
    },
    /// A media type, algorithm or archive feature that the store does not know.
    #[error("{object}: {reason}")]
    Unsupported {
        /// What.
        object: String,
        /// What is not supported, and what is.
        reason: String,
    },
    /// A manifest, configuration, layer or archive that breaks its format or tries to leave its directory.
    #[error("{object}: {reason}")]
    Corrupt {
        /// What.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// hosts.toml cannot be read as one.
    #[error("registry configuration {path}: {reason}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The caller went away.
    #[error("{object}: cancelled")]
    Cancelled {
        /// What was going on.
        object: String,
    },
    /// A system call failed.
    #[error("{operation}")]
    Io {
        /// Operation and object.
        operation: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another process has the store.
    #[error("image store {path:?} is in use by another process")]
    InUse {
        /// Its directory.
        path: std::path::PathBuf,
    },
    /// Several hosts serve the registry, and all of them failed.
    #[error("{worst} (other hosts that were asked: {others})")]
    Hosts {
        /// The failure that says most, and the class of all.
        worst: Box<Error>,
        /// Each other host with its failure.
        others: String,
    },
    /// The failure of a download that several pulls share.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

/// Classes of [`Error`], for the mapping to status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is malformed.
    InvalidReference,
    /// No such image here, or no such manifest there.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// Credentials lack the right.
    Denied,
    /// The registry is down; message begins with `RegistryUnavailable`.
    Unavailable,
    /// The registry, a mirror or the archive delivers wrong bytes.
    DataLoss,
    /// No progress within the limit.
    DeadlineExceeded,
    /// Beyond a limit of the store, or the disk is full.
    TooLarge,
    /// Media type or feature that is not supported.
    Unsupported,
    /// A malformed manifest, configuration or layer.
    Corrupt,
    /// The operator's registry configuration is wrong.
    Config,
    /// The caller went away.
    Cancelled,
    /// A system call failed.
    Io,
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } => ErrorKind::InvalidReference,
            Self::NoSuchImage { .. } | Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => ErrorKind::DataLoss,
            Self::Stalled { .. } => ErrorKind::DeadlineExceeded,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Config { .. } => ErrorKind::Config,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Io { source, .. } if is_full(source) => ErrorKind::TooLarge,
            Self::Io { .. } | Self::InUse { .. } => ErrorKind::Io,
            Self::Hosts { worst, .. } => worst.kind(),
            Self::Shared(error) => error.kind(),
        }
    }

    pub(crate) fn io(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { operation: operation.into(), source: source.into() }
    }

    /// What a parser says, cut: it may quote what it has read.
    pub(crate) fn unreadable(object: impl Into<String>, what: &str, error: &serde_json::Error) -> Self {
        Self::corrupt(object, format!("{what}: {}", brief(&error.to_string())))
    }

    pub(crate) fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { object: object.into(), reason: reason.into() }
    }
}

/// Whether there is no room on the disk, or none that may be used.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Text of a stranger, fit for a message: escaped and cut.
pub(crate) fn brief(text: &str) -> String {
    within(text, 200)
}

/// The same with another bound, in characters.
pub(crate) fn within(text: &str, longest: usize) -> String {
    let mut short: String = text.chars().take(longest).flat_map(char::escape_debug).collect();
    if text.chars().nth(longest).is_some() {
        short.push_str("...");
    }
    short
}
