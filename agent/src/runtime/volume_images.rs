//! Images that a container mounts besides its own: found before anything is made, leased like the container's own.

use std::sync::Arc;

use holdfast_model::{ContainerConfig, ContainerId, Image};

use super::{Error, Runtime};

impl Runtime {
    /// An image of the store.
    pub(super) fn find_image(&self, wanted: &str) -> Result<Arc<Image>, Error> {
        self.images
            .get(wanted)
            .map_err(|source| Error::Image { operation: format!("look up image {wanted:?}"), source })?
            .ok_or_else(|| Error::NoSuchImage { image: wanted.to_owned() })
    }

    /// For each mount of a container the image that it names.
    pub(super) fn volume_images(&self, config: &ContainerConfig) -> Result<Vec<Option<Arc<Image>>>, Error> {
        let find = |(index, mount): (usize, &holdfast_model::Mount)| {
            let Some(image) = &mount.image else { return Ok(None) };
            self.find_image(&image.image)
                .map(Some)
                .map_err(|source| Error::ImageVolume { mount: index, source: Box::new(source) })
        };
        config.mounts.iter().enumerate().map(find).collect()
    }

    /// Keeps images until the container releases them all.
    pub(super) fn lease_images<'a>(
        &self,
        owner: &ContainerId,
        images: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        for image in images {
            self.images.lease(image, owner.as_str()).map_err(|source| Error::Image {
                operation: format!("keep image for container {owner}"),
                source,
            })?;
        }
        Ok(())
    }
}
