//! What a pod is on a Linux node, for the agent that makes pods and for the shim that runs containers in them.

pub mod channel;
pub mod executable;
pub mod holder;
pub mod hooks;
pub mod launch;
pub mod oci_runtime;
pub mod protocol;
pub mod report;
pub mod sysctl;
pub mod user;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod stored_formats;
