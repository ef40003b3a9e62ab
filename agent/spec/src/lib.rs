//! From a container's configuration to an OCI runtime spec and a seccomp program.
//!
//! [`build`] puts together what the modules below decide, one for each part of a spec. Texts from requests and images
//! are checked where they come in and never steer anything but what their field is for.

pub mod apparmor;
mod bind;
mod build;
pub mod caps;
mod cdi;
mod command;
mod devices;
mod env;
mod error;
pub mod hooks;
mod host;
mod image_volume;
mod mounts;
mod namespaces;
mod oci;
mod relabel;
mod resources;
pub mod seccomp;
pub mod selinux;
mod signal;
pub mod sysctl;
mod text;
mod user;

pub use build::{Built, Inputs, PodFiles, build, exec_process, validate_pod};
pub use error::{ErrorKind, SpecError};
pub use host::{Features, HostFacts, kernel_version};
pub use namespaces::id_map;
