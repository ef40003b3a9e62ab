//! Where a container sees the pod's volumes.

use std::{
    collections::HashSet,
    path::{Component, Path},
};

use holdfast_model::MountPropagation;

use super::{
    container::absolute,
    reader::Item,
    types::{RecursiveReadOnly, VolumeMount},
};

/// Reads `volumeMounts`.
pub fn read(item: &Item<'_>, volumes: &HashSet<String>, privileged: bool) -> Vec<VolumeMount> {
    let mut targets = HashSet::new();
    let mut mounts = Vec::new();
    for item in item.items() {
        let Some(mount) = mount(&item, volumes, privileged) else { continue };
        if !targets.insert(mount.target.trim_end_matches('/').to_owned()) {
            item.refuse(format!("there is a mount at {} already: choose another path", mount.target));
        }
        mounts.push(mount);
    }
    mounts
}

fn mount(item: &Item<'_>, volumes: &HashSet<String>, privileged: bool) -> Option<VolumeMount> {
    let fields = item.fields()?;
    let volume = fields.need("name").and_then(|item| known_volume(&item, volumes));
    let target = fields.need("mountPath").and_then(|item| mount_path(&item));
    let sub_path = fields.take("subPath").map_or(Some(String::new()), |item| sub_path(&item));
    let read_only = fields.take("readOnly").and_then(|item| item.flag()).unwrap_or(false);
    let propagation = fields.take("mountPropagation").and_then(|item| propagation(&item, privileged));
    let propagation = propagation.unwrap_or_default();
    let recursive = fields.take("recursiveReadOnly").and_then(|item| {
        let recursive = recursive(&item)?;
        if recursive != RecursiveReadOnly::Disabled
            && (!read_only || propagation != MountPropagation::Private)
        {
            item.refuse("it goes with readOnly: true and without mountPropagation: change them");
        }
        Some(recursive)
    });
    Some(VolumeMount {
        path: item.path().to_owned(),
        volume: volume?,
        target: target?,
        sub_path: sub_path?,
        read_only,
        recursive_read_only: recursive.unwrap_or_default(),
        propagation,
    })
}

fn known_volume(item: &Item<'_>, volumes: &HashSet<String>) -> Option<String> {
    let name = item.word()?;
    if volumes.contains(&name) {
        return Some(name);
    }
    item.refuse(format!("there is no volume {name:?} in spec.volumes: add it"));
    None
}

fn mount_path(item: &Item<'_>) -> Option<String> {
    let path = absolute(item)?;
    if path.contains(':') {
        item.refuse(format!("{path:?} holds a colon, which Kubernetes does not allow"));
        return None;
    }
    Some(path)
}

/// A path below the volume. That no symbolic link leads out of it is seen to when it is opened.
fn sub_path(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let inside =
        Path::new(&text).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && !text.contains('\0') {
        return Some(text);
    }
    item.refuse(format!("{text:?} is not a path below the volume: no leading / and no .."));
    None
}

fn propagation(item: &Item<'_>, privileged: bool) -> Option<MountPropagation> {
    use MountPropagation::{Bidirectional, HostToContainer, Private};
    let choices = [("None", Private), ("HostToContainer", HostToContainer), ("Bidirectional", Bidirectional)];
    let propagation = item.choice(&choices)?;
    if propagation == Bidirectional && !privileged {
        item.refuse("Bidirectional is for privileged containers only");
    }
    Some(propagation)
}

fn recursive(item: &Item<'_>) -> Option<RecursiveReadOnly> {
    use RecursiveReadOnly::{Disabled, Enabled, IfPossible};
    item.choice(&[("Disabled", Disabled), ("IfPossible", IfPossible), ("Enabled", Enabled)])
}
