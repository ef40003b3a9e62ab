//! What a container sees: the layers as overlayfs stacks them, against a plain model of what layers mean.
//!
//! The model applies one layer after the other to a map (image-spec, layer.md): what a layer hides of those below it goes
//! first, then its own entries are made. Directories that no entry describes keep what they had.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use holdfast_model::Image;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::bed::Bed;
use crate::images::{Entry, Layer, TestImage, archive};
use crate::needs_root;
use crate::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Directory(u32),
    File(Vec<u8>),
}

type View = BTreeMap<String, Seen>;

/// An entry of a random layer.
#[derive(Debug, Clone)]
enum Part {
    Directory(String, u32),
    File(String, Vec<u8>),
    Whiteout(String),
    Opaque(String),
}

impl Part {
    fn path(&self) -> &str {
        match self {
            Self::Directory(path, _) | Self::File(path, _) | Self::Whiteout(path) | Self::Opaque(path) => {
                path
            }
        }
    }
}

/// The overlay of an image, attached to nothing.
fn mount(image: &Image) -> rustix::io::Result<OwnedFd> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in image.layers.iter().rev() {
        fsconfig_set_string(&overlay, "lowerdir+", layer)?;
    }
    if image.layers.len() == 1 {
        // overlayfs refuses a single layer without an upper one: an empty one does not change what is seen.
        fsconfig_set_string(&overlay, "lowerdir+", image.layers[0].join("../../../empty"))?;
    }
    fsconfig_create(&overlay)?;
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn look(path: &Path, name: &str, view: &mut View) {
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let inner = format!(
            "{name}{}{}",
            if name.is_empty() { "" } else { "/" },
            entry.file_name().to_str().unwrap()
        );
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            view.insert(inner.clone(), Seen::Directory(metadata.mode() & 0o7777));
            look(&entry.path(), &inner, view);
        } else {
            view.insert(inner, Seen::File(std::fs::read(entry.path()).unwrap()));
        }
    }
}

fn remove_below(view: &mut View, path: &str) {
    let below = format!("{path}/");
    view.retain(|name, _| !name.starts_with(&below));
}

/// Directories on the way to a path; files there give way, as they do for us when they are of a lower layer.
fn make_parents(view: &mut View, path: &str) {
    let mut at = 0;
    while let Some(slash) = path[at..].find('/') {
        let parent = &path[..at + slash];
        if !matches!(view.get(parent), Some(Seen::Directory(_))) {
            view.insert(parent.to_owned(), Seen::Directory(0o755));
        }
        at += slash + 1;
    }
}

fn apply(view: &mut View, layer: &[Part]) {
    for part in layer {
        match part {
            Part::Whiteout(path) => {
                view.remove(path);
                remove_below(view, path);
            }
            Part::Opaque(path) => remove_below(view, path),
            _ => {}
        }
    }
    for part in layer {
        make_parents(view, part.path());
        match part {
            Part::Directory(path, mode) => drop(view.insert(path.clone(), Seen::Directory(*mode))),
            Part::File(path, data) => {
                view.insert(path.clone(), Seen::File(data.clone()));
                remove_below(view, path);
            }
            // The marker lies in the directory, which has to be there for it.
            Part::Opaque(path) => make_parents(view, &format!("{path}/x")),
            Part::Whiteout(_) => {}
        }
    }
}

fn tar(layer: &[Part]) -> Vec<u8> {
    let names: Vec<(String, &Part)> = layer
        .iter()
        .map(|part| {
            let name = match part {
                Part::Directory(path, _) => format!("{path}/"),
                Part::File(path, _) => path.clone(),
                Part::Whiteout(path) => match path.rsplit_once('/') {
                    Some((parent, name)) => format!("{parent}/.wh.{name}"),
                    None => format!(".wh.{path}"),
                },
                Part::Opaque(path) => format!("{path}/.wh..wh..opq"),
            };
            (name, part)
        })
        .collect();
    let entries: Vec<Entry<'_>> = names
        .iter()
        .map(|(name, part)| match part {
            Part::Directory(_, mode) => Entry::Directory(name, *mode),
            Part::File(_, data) => Entry::File(name, data),
            Part::Whiteout(_) | Part::Opaque(_) => Entry::File(name, b""),
        })
        .collect();
    archive(&entries)
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "c"][self.below(3)]).collect();
        names.join("/")
    }

    /// Parts that do not contradict each other: no path is two things, nothing lies below a file.
    fn layer(&mut self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for number in 0..=self.below(6) {
            let path = self.path();
            let part = match self.below(6) {
                0 | 1 => Part::Directory(path, [0o700, 0o755, 0o1777, 0o2750][self.below(4)]),
                2 | 3 => Part::File(path, vec![b'0' + number as u8; 3]),
                4 => Part::Whiteout(path),
                _ => Part::Opaque(path),
            };
            let mut all: Vec<&Part> = parts.iter().collect();
            all.push(&part);
            if is_consistent(&all) {
                parts.push(part);
            }
        }
        parts
    }
}

fn is_consistent(parts: &[&Part]) -> bool {
    let pairs =
        parts.iter().enumerate().flat_map(|(at, one)| parts[at + 1..].iter().map(move |two| (*one, *two)));
    for (one, two) in pairs {
        for (upper, lower) in [(one, two), (two, one)] {
            let is_below = lower.path().starts_with(&format!("{}/", upper.path()));
            let is_same = lower.path() == upper.path();
            let files = matches!(upper, Part::File(..));
            // A marker in a directory, and a whiteout of what this layer makes anew, are fine.
            let fine_together =
                matches!((upper, lower), (Part::Opaque(_) | Part::Whiteout(_), Part::Directory(..)))
                    || matches!((upper, lower), (Part::Whiteout(_), Part::File(..) | Part::Opaque(_)));
            let fine_together = fine_together
                || matches!((lower, upper), (Part::Opaque(_) | Part::Whiteout(_), Part::Directory(..)))
                || matches!((lower, upper), (Part::Whiteout(_), Part::File(..) | Part::Opaque(_)));
            if (is_same && !fine_together) || (is_below && files) {
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_mean_what_they_say() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let mut random = Random(20_261_126);
    let mut with_directories = 0;
    for round in 0..120 {
        let mut layers: Vec<Vec<Part>> = (0..2 + random.below(4)).map(|_| random.layer()).collect();
        // Now and then one of them comes again.
        if round % 4 == 0 {
            layers.push(layers[0].clone());
        }
        let mut want = View::new();
        for layer in &layers {
            apply(&mut want, layer);
        }
        let image =
            TestImage::new(&round.to_string(), layers.iter().map(|layer| Layer::plain(tar(layer))).collect());
        registry.add("app", "v1", &image);
        let pulled = bed.pull(&registry.name("app", "v1")).await.unwrap();
        let mounted = match mount(&pulled) {
            Ok(mounted) => mounted,
            Err(error) => {
                println!("SKIP: no overlay can be mounted here: {error}");
                return;
            }
        };
        let mut seen = View::new();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mounted));
        look(Path::new(&path), "", &mut seen);
        assert_eq!(seen, want, "round {round}: {layers:#?}");
        with_directories +=
            usize::from(pulled.layers.iter().any(|layer| layer.starts_with(bed.root().join("directories"))));
        drop(mounted);
        bed.store.remove(&pulled.id).await.unwrap();
    }
    assert!(with_directories > 10, "{with_directories}");
    bed.assert_empty().await;
}
