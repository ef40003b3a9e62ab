//! The images of a pod: there or pulled, before anything is made.

use std::{collections::HashMap, sync::Arc};

use holdfast_model::Image;

use super::{RunError, cri::Cri, steps::Steps};
use crate::{
    cri::client::{ProgressFn, PullProgress},
    manifest::{NeededImage, Pod, PullPolicy},
};

/// The images of a pod by the names that the manifest gives them.
#[derive(Debug, Clone, Default)]
pub struct Images(HashMap<String, Found>);

#[derive(Debug, Clone)]
struct Found {
    image: Image,
    /// It has been pulled in this run, so that it need not be once more.
    pulled: bool,
}

impl Images {
    /// Sees that all are there, and pulls those that have to be pulled.
    pub async fn ensure(cri: &impl Cri, pod: &Pod, steps: &Steps) -> Result<Self, RunError> {
        let mut images = Self::default();
        for needed in pod.images() {
            let before = images.0.get(needed.name);
            let pull_again =
                needed.pull_policy == PullPolicy::Always && before.is_some_and(|found| !found.pulled);
            if before.is_none() || pull_again {
                images.0.insert(needed.name.to_owned(), ensure(cri, needed, steps).await?);
            }
        }
        Ok(images)
    }

    /// The image of a name.
    pub fn named(&self, name: &str) -> Image {
        self.0.get(name).map(|found| found.image.clone()).unwrap_or_default()
    }
}

async fn ensure(cri: &impl Cri, needed: NeededImage<'_>, steps: &Steps) -> Result<Found, RunError> {
    let name = needed.name;
    if needed.pull_policy != PullPolicy::Always {
        let step = steps.begin();
        if let Some(image) = cri.image(name).await? {
            step.done(&format!("image {name} is here"));
            return Ok(Found { image, pulled: false });
        }
    }
    if needed.pull_policy == PullPolicy::Never {
        return Err(RunError::NoImage { path: needed.path.to_owned(), image: name.to_owned() });
    }
    Ok(Found { image: pull(cri, needed, steps).await?, pulled: true })
}

async fn pull(cri: &impl Cri, needed: NeededImage<'_>, steps: &Steps) -> Result<Image, RunError> {
    let name = needed.name;
    let failed = |source| RunError::Pull { path: needed.path.to_owned(), source };
    let step = steps.begin();
    steps.progress(&format!("image {name} is pulled"));
    let pulled = cri.pull(name, progress(name.to_owned(), steps.clone())).await.map_err(failed)?;
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
