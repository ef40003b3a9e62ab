//! CDI devices: what a request names is looked up in the node's spec files (Container Device Interface, SPEC.md of
//! cncf-tags/container-device-interface).
//!
//! ```text
//!  name.rs    which devices a request names       files.rs   the folders and what is in their files
//!  schema.rs  a spec file as types                check.rs   what a spec must be beyond that
//!  yaml.rs    YAML into those types
//! ```
//!
//! The files are read anew for each request that names a device, as vendors write and remove them while the agent runs.

mod check;
mod error;
mod files;
mod name;
mod schema;
mod yaml;

use std::path::PathBuf;

use holdfast_model::{ContainerConfig, ContainerEdits};

pub use error::CdiError;
use files::{Content, File};
pub use name::Name;

/// The devices that a container's configuration names, in their order and each once.
pub fn names(config: &ContainerConfig) -> Result<Vec<Name>, CdiError> {
    name::of_request(&config.cdi_devices, &config.annotations)
}

/// What the devices change in a container, in their order; what a spec changes for all its devices comes before the
/// first of them, once. A file of a later folder takes the place of one of an earlier folder. Blocking.
pub fn resolve(folders: &[PathBuf], names: &[Name]) -> Result<ContainerEdits, CdiError> {
    let mut edits = ContainerEdits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let files = files::read(folders)?;
    let mut unknown = Vec::new();
    let mut begun: Vec<&File> = Vec::new();
    for name in names {
        let Some(file) = defining(&files, name)? else {
            unknown.push(name.to_string());
            continue;
        };
        let Content::Spec(spec) = &file.content else { continue };
        let Some(device) = spec.devices.iter().find(|device| device.name == name.device) else { continue };
        if !begun.iter().any(|known| std::ptr::eq(*known, file)) {
            begun.push(file);
            edits.append(&spec.container_edits);
        }
        edits.append(&device.container_edits);
    }
    if unknown.is_empty() {
        return Ok(edits);
    }
    let unreadable = files.iter().filter_map(File::unreadable).collect();
    Err(CdiError::Unknown { names: unknown, folders: folders.to_vec(), unreadable })
}

/// The file that says what the device is.
fn defining<'a>(files: &'a [File], name: &Name) -> Result<Option<&'a File>, CdiError> {
    let all: Vec<&File> = files.iter().filter(|file| file.defines(name)).collect();
    let Some(highest) = all.iter().map(|file| file.priority).max() else { return Ok(None) };
    let mut best = all.into_iter().filter(|file| file.priority == highest);
    match (best.next(), best.next()) {
        (Some(first), Some(second)) => Err(CdiError::Conflict {
            name: name.to_string(),
            first: first.path.clone(),
            second: second.path.clone(),
        }),
        (Some(File { path, content: Content::Bad { problem, .. }, .. }), None) => {
            Err(CdiError::BadSpec { name: name.to_string(), path: path.clone(), problem: problem.clone() })
        }
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
