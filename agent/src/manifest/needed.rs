//! The images that a pod needs: those of its containers and those of its volumes.

use super::types::{Pod, PullPolicy, VolumeSource};

/// An image that a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededImage<'a> {
    /// Whose `image` it is: `spec.containers[0]`, `spec.volumes[0]`.
    pub path: &'a str,
    /// Its name.
    pub name: &'a str,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
}

impl Pod {
    /// All images, those of containers first.
    pub fn images(&self) -> impl Iterator<Item = NeededImage<'_>> {
        let of_containers = self.all_containers().map(|container| NeededImage {
            path: &container.path,
            name: &container.image,
            pull_policy: container.pull_policy,
        });
        let of_volumes = self.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Image { reference, pull_policy } => {
                Some(NeededImage { path: &volume.path, name: reference, pull_policy: *pull_policy })
            }
            VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } => None,
        });
        of_containers.chain(of_volumes)
    }
}
