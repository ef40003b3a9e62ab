//! Holdfast: a Kubernetes node agent. CRI v1 server, image store, networks, standalone pods.
//!
//! ARCHITECTURE.md, at the top of the repository, says how the parts fit together.

pub mod cdi;
pub mod cli;
pub mod config;
pub mod cri;
pub mod imagecli;
pub mod logging;
pub mod manifest;
pub mod quarantinecli;
pub mod runtime;
pub mod serve;
pub mod standalone;
