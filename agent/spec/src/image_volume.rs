//! Images that are mounted into a container (KEP-4639).

use std::path::{Component, Path, PathBuf};

use holdfast_model::{ImageSpec, Mount};
use holdfast_pod::launch::ImageVolume;

use crate::{
    build::Inputs,
    error::{SpecError, invalid, not_found},
    text,
};

/// The volume of a mount that names an image, and the image's id. The volume's place in the spec is not known yet.
pub fn of(
    inputs: &Inputs<'_>,
    mount: &Mount,
    image: &ImageSpec,
    index: usize,
) -> Result<(String, ImageVolume), SpecError> {
    let field = format!("mounts[{index}]");
    let found = inputs.volume_images.get(index).and_then(Option::as_ref).ok_or_else(|| {
        not_found(format!("{field}.image"), format!("image {:?} not found: pull it first", image.image))
    })?;
    let sub_path = sub_path(&format!("{field}.image_sub_path"), &mount.image_sub_path)?;
    let name = [&image.user_specified_image, &image.image].into_iter().find(|name| !name.is_empty());
    let volume = ImageVolume {
        mount: 0,
        image: name.unwrap_or(&found.id).clone(),
        layers: found.layers.clone(),
        sub_path,
    };
    Ok((found.id.clone(), volume))
}

/// The stage that mounts it looks the path up within the image, so that no link leads out; what is refused here is what
/// a kubelet refuses, and what would mean something else than it says.
fn sub_path(field: &str, path: &str) -> Result<PathBuf, SpecError> {
    text::short(field, path)?;
    if path.starts_with('/') {
        return Err(invalid(field, format!("{path:?} is absolute: write it as seen from the image's root")));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                return Err(invalid(field, format!("{path:?} holds ..: write the path that is meant")));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

/// The layers as overlayfs writes them, the topmost first, for people who read the spec.
pub fn lower(layers: &[PathBuf]) -> String {
    let quoted = |layer: &PathBuf| layer.display().to_string().replace('\\', "\\\\").replace(':', "\\:");
    layers.iter().rev().map(quoted).collect::<Vec<_>>().join(":")
}
