//! RemoveImage: the image with all its names; its layers go with the last container that holds it. Idempotent.

use super::{Runtime, blocking::blocking, quarantine::ObjectKind};

impl Runtime {
    /// Removes an image. An unknown name is success.
    pub async fn remove_image(&self, name: &str) -> Result<(), holdfast_image::Error> {
        let (runtime, name) = (self.clone(), name.to_owned());
        self.detached(async move {
            runtime.release_removed().await;
            runtime.images.remove(&name).await
        })
        .await
    }

    /// Releases images of containers that an operator has taken out of quarantine.
    async fn release_removed(&self) {
        let containers = self.quarantined().iter().filter(|object| object.kind == ObjectKind::Container);
        let containers: Vec<_> = containers.map(|object| (object.id.clone(), object.dir.clone())).collect();
        if containers.is_empty() {
            return;
        }
        let images = self.images.clone();
        blocking(move || {
            for (id, _) in containers.into_iter().filter(|(_, dir)| !dir.exists()) {
                images.release(&id);
            }
        })
        .await;
    }
}
