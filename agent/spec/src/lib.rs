//! From a container's configuration to an OCI runtime spec and a seccomp program.

pub mod caps;
mod error;
pub mod seccomp;

pub use error::{ErrorKind, SpecError};
