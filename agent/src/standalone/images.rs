//! The images of a pod: there or pulled, before anything is made.

use std::{collections::HashMap, sync::Arc};

use holdfast_model::Image;

use super::{RunError, cri::Cri, steps::Steps};
use crate::{
    cri::client::{ProgressFn, PullProgress},
    manifest::{Container, Pod, PullPolicy},
};

/// The images of a pod by the names that the manifest gives them.
#[derive(Debug, Default)]
pub struct Images(HashMap<String, Found>);

#[derive(Debug)]
struct Found {
    image: Image,
    /// It has been pulled in this run, so that it need not be once more.
    pulled: bool,
}

impl Images {
    /// Sees that all are there, and pulls those that have to be pulled.
    pub async fn ensure(cri: &impl Cri, pod: &Pod, steps: &Steps) -> Result<Self, RunError> {
        let mut images = Self::default();
        for container in pod.all_containers() {
            let before = images.0.get(&container.image);
            let pull_again =
                container.pull_policy == PullPolicy::Always && before.is_some_and(|found| !found.pulled);
            if before.is_none() || pull_again {
                images.0.insert(container.image.clone(), ensure(cri, container, steps).await?);
            }
        }
        Ok(images)
    }

    /// The image of a container.
    pub fn of(&self, container: &Container) -> Image {
        self.0.get(&container.image).map(|found| found.image.clone()).unwrap_or_default()
    }
}

async fn ensure(cri: &impl Cri, container: &Container, steps: &Steps) -> Result<Found, RunError> {
    let name = &container.image;
    if container.pull_policy != PullPolicy::Always {
        let step = steps.begin();
        if let Some(image) = cri.image(name).await? {
            step.done(&format!("image {name} is here"));
            return Ok(Found { image, pulled: false });
        }
    }
    if container.pull_policy == PullPolicy::Never {
        return Err(RunError::NoImage { path: container.path.clone(), image: name.clone() });
    }
    Ok(Found { image: pull(cri, container, steps).await?, pulled: true })
}

async fn pull(cri: &impl Cri, container: &Container, steps: &Steps) -> Result<Image, RunError> {
    let (name, path) = (&container.image, &container.path);
    let failed = |source| RunError::Pull { path: path.clone(), source };
    let step = steps.begin();
    steps.progress(&format!("image {name} is pulled"));
    let pulled = cri.pull(name, progress(name.clone(), steps.clone())).await.map_err(failed)?;
    // The answer of a pull does not say who the image's user is.
    let image = cri.image(name).await?.unwrap_or(pulled);
    step.done(&format!("image {name} pulled, {}", size(image.size_bytes)));
    Ok(image)
}

fn progress(name: String, steps: Steps) -> ProgressFn {
    Arc::new(move |state| {
        let PullProgress { layers_done, layers, bytes, total_bytes } = state;
        let (bytes, total) = (size(bytes), size(total_bytes));
        steps.progress(&format!("image {name}: {layers_done} of {layers} layers, {bytes} of {total}"));
    })
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}
