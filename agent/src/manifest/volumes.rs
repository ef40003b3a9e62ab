//! A Pod's volumes.

use std::{collections::HashSet, path::Component, path::Path};

use super::{
    container, names,
    reader::{Fields, Item},
    requests,
    types::{HostPathKind, Volume, VolumeSource},
};

/// The volumes of a pod and all their names: a mount of one that is refused is not refused as well.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Those that were read.
    pub list: Vec<Volume>,
    /// The names of all.
    pub names: HashSet<String>,
}

/// Reads `volumes`.
pub fn read(item: &Item<'_>) -> Volumes {
    let mut volumes = Volumes::default();
    for item in item.items() {
        let Some(fields) = item.fields() else { continue };
        let name = fields.need("name").and_then(|item| names::label(&item));
        let source = source(&fields);
        let Some(name) = name else { continue };
        if !volumes.names.insert(name.clone()) {
            item.refuse(format!("a volume {name:?} is there already: name it otherwise"));
        }
        volumes.list.extend(source.map(|source| Volume { path: item.path().to_owned(), name, source }));
    }
    volumes
}

fn source(fields: &Fields<'_>) -> Option<VolumeSource> {
    // `emptyDir:` with nothing behind it is how many write an emptyDir, and an API server reads it so.
    let empty_dir = fields.named("emptyDir");
    let (host_path, image) = (fields.take("hostPath"), fields.take("image"));
    match (empty_dir, host_path, image) {
        (Some(item), None, None) if item.is_empty() => {
            Some(VolumeSource::EmptyDir { size_limit_bytes: None })
        }
        (Some(item), None, None) => empty(&item),
        (None, Some(item), None) => host(&item),
        (None, None, Some(item)) => of_image(&item),
        (None, None, None) => {
            nothing(fields);
            None
        }
        _ => {
            fields.item().refuse("a volume is one thing: leave one of emptyDir, hostPath and image");
            None
        }
    }
}

/// A volume of another kind is refused by the name of that kind; one of no kind, here.
fn nothing(fields: &Fields<'_>) {
    if fields.is_all_taken() {
        fields.item().refuse("it says not what it is: write emptyDir: {}, hostPath or image");
    }
}

fn empty(item: &Item<'_>) -> Option<VolumeSource> {
    let fields = item.fields()?;
    if let Some(medium) = fields.take("medium")
        && medium.text().is_some_and(|text| !text.is_empty())
    {
        medium.refuse("holdfast run has emptyDirs on disk only: take it out");
    }
    let limit = |item: Item<'_>| requests::bytes(&item, requests::quantity(&item, item.loose()?)?);
    Some(VolumeSource::EmptyDir { size_limit_bytes: fields.take("sizeLimit").and_then(limit) })
}

fn host(item: &Item<'_>) -> Option<VolumeSource> {
    let fields = item.fields()?;
    let path = fields.need("path").and_then(|item| host_path(&item));
    let kinds = [
        ("", HostPathKind::Any),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let kind = fields.take("type").map_or(Some(HostPathKind::Any), |item| item.choice(&kinds));
    Some(VolumeSource::HostPath { path: path?, kind: kind? })
}

fn of_image(item: &Item<'_>) -> Option<VolumeSource> {
    let fields = item.fields()?;
    let reference = fields.need("reference").and_then(|item| container::image(&item));
    let pull_policy = fields.take("pullPolicy").map(|item| container::pull_policy(&item));
    let reference = reference?;
    let pull_policy = pull_policy.unwrap_or_else(|| Some(container::default_pull_policy(&reference)))?;
    Some(VolumeSource::Image { reference, pull_policy })
}

fn host_path(item: &Item<'_>) -> Option<String> {
    let text = container::absolute(item)?;
    if Path::new(&text).components().any(|part| part == Component::ParentDir) {
        item.refuse(format!("{text:?} holds ..: write the path that is meant"));
        return None;
    }
    Some(text)
}
