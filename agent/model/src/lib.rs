//! Pods, containers and images in Holdfast's own words.
//!
//! These types are what the records on disk keep and what every module of the agent speaks. Only the agent's CRI
//! module turns them into wire types and back, and `holdfast run` makes them from Pod manifests. The words are
//! CRI's; the meaning of each field is the one in `k8s.io/cri-api` (runtime/v1/api.proto).
//!
//! Every struct is `#[serde(default)]`, so a record of an older version reads with new fields at their defaults.

mod cdi;
mod chain;
mod container;
mod device;
mod id;
mod image;
mod pod;
mod resources;
mod security;

pub use cdi::*;
pub use chain::chain;
pub use container::*;
pub use device::*;
pub use id::*;
pub use image::*;
pub use pod::*;
pub use resources::*;
pub use security::*;

/// Labels, annotations, sysctls: sorted, so that records and tests are stable.
pub type Map = std::collections::BTreeMap<String, String>;
