//! The error of a kernel call: which call, with which arguments, and the errno.

use std::fmt;
use std::io;

/// A kernel call that failed. Displays as strace would show it, `openat(3, "x"): Permission denied (os error 13)`
/// being this and its source in a chain.
#[derive(Debug, thiserror::Error)]
#[error("{call}")]
pub struct CallError {
    call: String,
    #[source]
    errno: io::Error,
}

/// Result of a kernel call.
pub type Result<T> = std::result::Result<T, CallError>;

impl CallError {
    /// `call` is the call with its arguments; `errno` the kernel's answer.
    pub fn new(call: impl fmt::Display, errno: impl Into<io::Error>) -> Self {
        Self { call: call.to_string(), errno: errno.into() }
    }

    /// The errno; 0 if the failure was not the kernel's.
    pub fn errno(&self) -> i32 {
        self.errno.raw_os_error().unwrap_or(0)
    }

    /// Is it this errno?
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno() == errno.raw_os_error()
    }

    /// The call would have had to wait (EAGAIN).
    pub fn is_would_block(&self) -> bool {
        self.is(rustix::io::Errno::AGAIN)
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        Self::new(error.errno.kind(), error)
    }
}
