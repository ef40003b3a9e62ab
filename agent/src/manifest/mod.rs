//! Pod manifests: a file's text to a [`Pod`], and a Pod to what CRI is asked for.
//!
//! A manifest is read strictly. Every field is either acted upon or refused by its path and line: what a file says
//! happens, or nothing does. `reader` makes that so by refusing whatever no reader took.
//!
//! ```text
//!  yaml.rs    text to a tree with lines       pod.rs container.rs ...  tree to a Pod, field by field
//!  scalar.rs  what a scalar means             sandbox.rs               Pod to PodSandboxConfig
//!  reader.rs  fields by path, leftovers       create.rs limits.rs      container to ContainerConfig
//! ```

mod container;
mod create;
mod env;
mod error;
mod expand;
mod limits;
mod mounts;
mod names;
mod needed;
mod pod;
mod quantity;
mod reader;
mod requests;
mod sandbox;
mod scalar;
mod security;
mod types;
mod volumes;
pub(crate) mod yaml;

pub use create::{ContainerFacts, CreateError, container_config, log_path};
pub use error::{ManifestError, Problem};
pub use limits::NodeLimits;
pub use needed::NeededImage;
pub use sandbox::{SandboxFacts, hostname, sandbox_config};
pub use types::*;

/// Largest manifest in bytes. An API server takes objects of at most 1.5 MiB, and etcd of at most that as JSON.
pub const MAX_BYTES: usize = 1 << 20;

/// Reads a manifest with exactly one v1 Pod, in YAML or JSON.
///
/// # Errors
/// All problems of all fields at once, in the order of their lines; a syntax error alone.
pub fn read(bytes: &[u8]) -> Result<Pod, ManifestError> {
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError::TooLarge { limit: MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        ManifestError::NotText { line }
    })?;
    let document = yaml::parse(text)?;
    let problems = reader::Problems::default();
    let pod = pod::read(&reader::Item::top(&document, &problems));
    match pod {
        Some(pod) if problems.is_empty() => Ok(pod),
        _ => Err(ManifestError::Refused(problems.into_sorted())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
