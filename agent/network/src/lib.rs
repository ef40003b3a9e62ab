//! Pod networks: the embedded bridge and CNI.
//!
//! [`Network`] gives a pod's network namespace its interface, addresses and host ports, and takes them back. With a
//! configuration list in the CNI directory the plugins do it, otherwise the embedded network does, in process by
//! netlink. What is done for a pod is in its record before it is done, so that DEL, recovery and a changed
//! configuration need nothing else.
//!
//! Nothing here changes the namespace of a tokio worker: work inside a pod is done by a thread that enters and ends.

mod api;
mod choice;
mod cni;
mod config;
mod debt;
mod embedded;
mod error;
#[cfg(all(test, feature = "failpoints"))]
mod failpoint_tests;
mod gc;
mod netlink;
mod network;
mod owed;
mod record;
mod recovery;
mod state;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod stored_formats;
mod subnet;
#[cfg(test)]
mod testing;
mod thread;

pub use api::{AddRequest, InterfaceStats, NetworkStatus, OwedDel, PodNetwork};
pub use config::{CniConfig, EmbeddedConfig, Mode, NetworkConfig};
pub use error::Error;
pub use netlink::NetlinkError;
pub use network::Network;
