//! Between the wire types of `runtime.v1` and the types that the rest of the agent speaks.
//!
//! What comes from the wire is checked here once, field by field, so that nothing behind this module meets a
//! negative uid, an unknown enum number or a profile path of 2017. What goes out needs no check.

mod container;
mod image;
mod invalid;
mod metadata;
mod mount;
mod namespace;
mod pod;
mod profile;
mod resources;
mod signal;

pub use container::{container_config, container_metadata, container_metadata_to_wire};
pub use image::{credentials, image_spec, image_spec_to_wire, image_to_wire};
pub use invalid::{Invalid, not_windows};
pub use metadata::{pod_metadata, pod_metadata_to_wire};
pub use mount::{mounts, mounts_to_wire};
pub use namespace::{namespace_options, namespace_options_to_wire};
pub use pod::{pod_sandbox_config, pod_sandbox_config_at};
pub use resources::{resources, resources_to_wire};
pub use signal::{signal_from_wire, signal_number, signal_to_wire};
