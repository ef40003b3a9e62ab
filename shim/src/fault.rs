//! Faults as the agent gets them: whose they are, in which stage, and what the kernel said.

use std::io;

use holdfast_pod::protocol::{Failure, FaultKind};
use holdfast_sys::error::CallError;
use rustix::io::Errno;

/// Result of a stage.
pub type Result<T> = std::result::Result<T, Failure>;

/// What lies behind a failure.
pub trait Cause {
    /// errno, or 0.
    fn errno(&self) -> i32;
    /// The whole of it as text.
    fn text(&self) -> String;
}

impl Cause for CallError {
    fn errno(&self) -> i32 {
        CallError::errno(self)
    }

    fn text(&self) -> String {
        match self.errno() {
            0 => self.to_string(),
            errno => format!("{self}: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Cause for Errno {
    fn errno(&self) -> i32 {
        self.raw_os_error()
    }

    fn text(&self) -> String {
        io::Error::from(*self).to_string()
    }
}

impl Cause for io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Turns an error into a failure of a stage.
pub trait OrFail<T> {
    /// The kernel's fault or ours.
    fn or_fail(self, stage: &str) -> Result<T>;
    /// The request's fault; `advice` says what to change.
    fn or_invalid(self, stage: &str, advice: &str) -> Result<T>;
}

impl<T, E: Cause> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, stage: &str) -> Result<T> {
        self.map_err(|e| failure(FaultKind::Internal, stage, e.errno(), e.text()))
    }

    fn or_invalid(self, stage: &str, advice: &str) -> Result<T> {
        self.map_err(|e| failure(FaultKind::Invalid, stage, e.errno(), format!("{}: {advice}", e.text())))
    }
}

/// A failure.
pub fn failure(kind: FaultKind, stage: &str, errno: i32, text: impl Into<String>) -> Failure {
    Failure { kind, stage: stage.to_owned(), errno, text: text.into() }
}

/// A failure that is the request's fault and that no kernel call told of.
pub fn invalid(stage: &str, text: impl Into<String>) -> Failure {
    failure(FaultKind::Invalid, stage, 0, text)
}

/// A failure that is ours and that no kernel call told of.
pub fn internal(stage: &str, text: impl Into<String>) -> Failure {
    failure(FaultKind::Internal, stage, 0, text)
}
