//! Fixtures of the end-to-end tests: a registry, an agent of its own, crictl, and an oracle that tells what was left
//! behind. The tests drive built programs only; nothing here names a crate of theirs.

#![deny(clippy::disallowed_methods)]

pub mod agent;
pub mod canary;
pub mod crictl;
pub mod disk;
pub mod grpc;
pub mod hostile;
pub mod http;
pub mod oracle;
pub mod place;
pub mod process;
pub mod registry;
pub mod scene;
mod server;
pub mod shelf;
pub mod specs;
pub mod terminal;
pub mod wait;

pub use agent::Agent;
pub use crictl::Crictl;
pub use oracle::Oracle;
pub use scene::Scene;
