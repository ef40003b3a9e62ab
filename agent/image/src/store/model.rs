//! What the store knows: plain values that are edited in memory and written as differences.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use holdfast_model::{Image, ImageConfig};
use serde::{Deserialize, Serialize};

use super::home::Home;
use crate::digest::Digest;
use crate::reference::{Reference, Target};
use crate::unpack::Footprint;

/// A manifest or configuration that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub digest: Digest,
    pub size: u64,
}

/// An image; its id is the digest of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Lowest first, as the configuration has them; one may stand there twice.
    pub diff_ids: Vec<Digest>,
    pub blobs: Vec<Blob>,
    /// Takes this much on top of the layers, if it is there at all; see the module `directories`.
    pub directories: Option<Footprint>,
    /// Removed by its user, kept for its leases: no name leads to it, no list shows it, and it has no record on disk.
    #[serde(default, skip_serializing)]
    pub removed: bool,
    pub config: ImageConfig,
}

/// A layer on disk: what it should be, to check and to repair it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The blob from which it was unpacked.
    pub blob: Blob,
    /// Entries of the archive.
    pub entries: u64,
    pub footprint: Footprint,
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub images: BTreeMap<Digest, ImageRecord>,
    /// Complete references to images.
    pub references: BTreeMap<String, Digest>,
    pub layers: BTreeMap<Digest, LayerRecord>,
}

impl Model {
    /// An image that its user has not removed.
    pub(crate) fn visible(&self, id: &Digest) -> Option<&ImageRecord> {
        self.images.get(id).filter(|image| !image.removed)
    }

    /// Removes an image with all its names. While it is leased its layers stay.
    pub(crate) fn remove(&mut self, id: &Digest) {
        self.references.retain(|_, image| image != id);
        if let Some(image) = self.images.get_mut(id) {
            image.removed = true;
        }
    }

    /// Drops what nothing holds any more: removed images that are not `leased`, then layers that no image has and that are
    /// not to `keep`.
    pub(crate) fn prune(&mut self, leased: impl Fn(&Digest) -> bool, keep: impl Fn(&Digest) -> bool) {
        self.images.retain(|id, image| !image.removed || leased(id));
        let used: HashSet<&Digest> = self.images.values().flat_map(|image| &image.diff_ids).collect();
        self.layers.retain(|diff_id, _| used.contains(diff_id) || keep(diff_id));
    }

    /// Blobs of all images.
    pub(crate) fn blobs(&self) -> HashSet<&Digest> {
        self.images.values().flat_map(|image| &image.blobs).map(|blob| &blob.digest).collect()
    }

    /// What an image takes: its layers, each once, and its blobs.
    fn size(&self, image: &ImageRecord) -> u64 {
        let layers = stack(&image.diff_ids).filter_map(|diff_id| self.layers.get(diff_id));
        let layers: u64 = layers.map(|layer| layer.footprint.bytes).sum();
        let blobs: u64 = image.blobs.iter().map(|blob| blob.size).sum();
        layers + blobs + image.directories.map_or(0, |footprint| footprint.bytes)
    }

    /// What all of it takes, what is removed but still leased included.
    pub(crate) fn footprint(&self) -> Footprint {
        let layers = self.layers.values().map(|layer| layer.footprint);
        let directories = self.images.values().filter_map(|image| image.directories);
        let blobs: BTreeMap<&Digest, u64> = self
            .images
            .values()
            .flat_map(|image| &image.blobs)
            .map(|blob| (&blob.digest, blob.size))
            .collect();
        let blobs = blobs.values().map(|size| Footprint { bytes: size.next_multiple_of(4096), inodes: 1 });
        layers.chain(directories).chain(blobs).fold(Footprint::default(), |sum, part| Footprint {
            bytes: sum.bytes + part.bytes,
            inodes: sum.inodes + part.inodes,
        })
    }

    /// An image in the words of the rest of the runtime.
    pub(crate) fn image(&self, home: &Home, id: &Digest, record: &ImageRecord) -> Image {
        let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
        for (name, _) in self.references.iter().filter(|(_, image)| *image == id) {
            match Reference::parse(name).map(|reference| reference.target) {
                Ok(Target::Digest(_)) => repo_digests.push(name.clone()),
                _ => repo_tags.push(name.clone()),
            }
        }
        Image {
            id: id.to_string(),
            repo_tags,
            repo_digests,
            size_bytes: self.size(record),
            pinned: false,
            config: record.config.clone(),
            layers: layers(home, id, record),
        }
    }
}

fn layers(home: &Home, id: &Digest, record: &ImageRecord) -> Vec<PathBuf> {
    let mut layers: Vec<PathBuf> = stack(&record.diff_ids).map(|diff_id| home.layer_path(diff_id)).collect();
    if record.directories.is_some() {
        layers.push(home.directories_path(id));
    }
    if layers.is_empty() {
        layers.push(home.empty_path());
    }
    layers
}

/// The layers to mount, lowest first, each once: overlayfs answers ELOOP to a layer that is given twice. The topmost
/// occurrence stays. Nothing is lost with a lower one: what it shows, the upper one shows too, and what it hides, the
/// upper one hides as well.
pub(crate) fn stack(diff_ids: &[Digest]) -> impl Iterator<Item = &Digest> {
    let mut topmost: Vec<&Digest> = Vec::with_capacity(diff_ids.len());
    let mut seen = HashSet::new();
    for diff_id in diff_ids.iter().rev() {
        if seen.insert(diff_id) {
            topmost.push(diff_id);
        }
    }
    topmost.into_iter().rev()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn image(layers: &[&str]) -> ImageRecord {
        ImageRecord {
            diff_ids: layers.iter().map(|layer| digest(layer)).collect(),
            blobs: vec![Blob { digest: digest(&format!("blob of {layers:?}")), size: 10 }],
            directories: None,
            removed: false,
            config: ImageConfig::default(),
        }
    }

    fn layer(bytes: u64) -> LayerRecord {
        let blob = Blob { digest: digest("blob"), size: 1 };
        LayerRecord { blob, entries: 1, footprint: Footprint { bytes, inodes: 2 } }
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.images.insert(digest("1"), image(&["a", "b"]));
        model.images.insert(digest("2"), image(&["b", "c"]));
        for (name, bytes) in [("a", 4096), ("b", 8192), ("c", 4096)] {
            model.layers.insert(digest(name), layer(bytes));
        }
        model.references.insert("r.io/one:1".into(), digest("1"));
        model.references.insert("r.io/two:1".into(), digest("2"));
        model
    }

    #[test]
    fn the_topmost_occurrence_of_a_layer_stays() {
        let all: Vec<Digest> = ["a", "b", "a", "c", "b"].map(digest).into();
        let kept: Vec<&Digest> = stack(&all).collect();
        assert_eq!(kept, [&digest("a"), &digest("c"), &digest("b")]);
        assert_eq!(stack(&[]).count(), 0);
    }

    #[test]
    fn shared_layers_go_with_their_last_image() {
        let mut model = model();
        model.remove(&digest("1"));
        model.prune(|_| false, |_| false);
        assert_eq!(model.layers.keys().collect::<HashSet<_>>(), [&digest("b"), &digest("c")].into());
        assert_eq!(model.references.len(), 1);
        model.remove(&digest("2"));
        model.prune(|_| false, |_| false);
        assert_eq!(model, Model::default());
    }

    #[test]
    fn leases_and_pulls_hold_layers() {
        let mut model = model();
        model.remove(&digest("1"));
        model.remove(&digest("2"));
        model.prune(|image| *image == digest("1"), |diff_id| *diff_id == digest("c"));
        assert_eq!(model.layers.len(), 3);
        assert!(model.visible(&digest("1")).is_none());
        assert_eq!(model.images.len(), 1);
        model.prune(|_| false, |_| false);
        assert_eq!(model, Model::default());
    }

    #[test]
    fn sizes_count_each_thing_once() {
        let mut model = model();
        let mut twice = image(&["a", "b", "a"]);
        twice.blobs.push(twice.blobs[0].clone());
        assert_eq!(model.size(&image(&["a", "b", "a"])), 4096 + 8192 + 10);
        model.images.insert(digest("3"), twice);
        let footprint = model.footprint();
        assert_eq!(footprint.bytes, 4096 + 8192 + 4096 + 3 * 4096);
        assert_eq!(footprint.inodes, 6 + 3);
    }
}
