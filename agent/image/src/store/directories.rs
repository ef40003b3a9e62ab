//! Directories on top of an image's layers, for what layers that were unpacked alone cannot say by themselves.
//!
//! Each layer is unpacked alone, so that images can share it. That leaves two things to put right, which depend on what
//! is below. Most images need neither.
//!
//! *Directories that are implied.* An archive may hold `tmp/x` without an entry for `tmp`;
//! then the unpacker makes `tmp` with root's ownership and mode 0755, and in the overlay this one, being the upper one,
//! would hide that a layer below says 1777. So the image gets one more tree on top of its layers, with nothing in it but
//! such directories, as the layers below describe them.
//!
//! *Whiteouts of nothing.* overlayfs looks for whiteouts only where it merges directories. In a directory that no other
//! layer has it lists them, as names that cannot be opened, and where a single layer is bound they would be devices. So
//! such a directory stands in the tree on top as well, which makes it a merged one.
//!
//! Extended attributes of directories are not restored. A directory that is implied over a symlink of a lower layer
//! replaces it, as with Docker and CRI-O.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::Error;
use crate::unpack::{Footprint, open_directory, show};

/// Directories looked at for one image; each costs some microseconds.
const MOST_LOOKS: u64 = 2_000_000;

/// One layer of an image.
pub(super) struct Layer<'a> {
    pub files: BorrowedFd<'a>,
    /// Directories that no entry describes, sorted.
    pub implied: &'a [Vec<u8>],
    /// Directories with whiteouts, sorted.
    pub hiding: &'a [Vec<u8>],
}

#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
}

impl Attributes {
    fn owner_and_mode(&self) -> (u32, u32, u32) {
        (self.mode, self.uid, self.gid)
    }
}

/// A directory as the containers will see it.
struct Node {
    /// Layers that its content comes from, topmost first.
    layers: Vec<usize>,
    attributes: Attributes,
    /// Whether it has to stand on top.
    needed: bool,
}

/// What a layer has at a path.
enum Found {
    Nothing,
    Directory {
        attributes: Attributes,
        opaque: bool,
    },
    /// A file, symlink or whiteout, which hides the layers below.
    Other,
}

/// The directories that need to stand on top of these layers, lowest first; none in most cases.
pub(super) struct Plan<'a>(BTreeMap<&'a [u8], Attributes>);

impl<'a> Plan<'a> {
    /// Looks through the layers. Blocking.
    pub(super) fn new(object: &str, layers: &[Layer<'a>]) -> Result<Self, Error> {
        let hiding = with_parents(layers.iter().flat_map(|layer| layer.hiding));
        let mut paths = with_parents(layers.iter().flat_map(|layer| layer.implied));
        paths.extend(&hiding);
        let mut nodes: BTreeMap<&[u8], Node> = BTreeMap::new();
        let mut looks = 0;
        // A parent sorts before its children.
        for path in paths {
            let candidates = match nodes.get(parent(path)) {
                _ if path.is_empty() => (0..layers.len()).rev().collect(),
                Some(node) => node.layers.clone(),
                None => continue,
            };
            // Nothing below that it could inherit from, and nothing to hide.
            if candidates.len() < 2 && !hiding.contains(path) {
                continue;
            }
            looks += candidates.len() as u64;
            if looks > MOST_LOOKS {
                let object = format!("{object}: directories of its layers");
                return Err(Error::TooLarge { object, limit: MOST_LOOKS, unit: "directories" });
            }
            if let Some(node) = merge(layers, &candidates, path)? {
                nodes.insert(path, node);
            }
        }
        let mut plan = BTreeMap::new();
        for (path, _) in nodes.iter().filter(|(_, node)| node.needed) {
            let mut path: &[u8] = path;
            while let Some(node) = nodes.get(path)
                && plan.insert(path, node.attributes).is_none()
                && !path.is_empty()
            {
                path = parent(path);
            }
        }
        Ok(Self(plan))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the directories below `root`, which is empty and ours. Blocking.
    pub(super) fn make(&self, root: BorrowedFd<'_>) -> Result<Footprint, Error> {
        for (path, attributes) in self.0.iter().filter(|(path, _)| !path.is_empty()) {
            fs::mkdirat(root, *path, Mode::RWXU).map_err(|errno| fault("make", path, errno))?;
            set(root, path, attributes)?;
        }
        if let Some(attributes) = self.0.get(b"".as_slice()) {
            set(root, b".", attributes)?;
        }
        // Last, and children first: making a child changes its parent's times.
        for (path, attributes) in self.0.iter().rev() {
            let time = Timespec { tv_sec: attributes.mtime.0, tv_nsec: attributes.mtime.1 };
            let times = Timestamps { last_access: time, last_modification: time };
            let name: &[u8] = if path.is_empty() { b"." } else { path };
            fs::utimensat(root, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| fault("set times of", path, errno))?;
        }
        Ok(Footprint { bytes: 4096 * self.0.len() as u64, inodes: self.0.len() as u64 })
    }
}

/// What overlayfs will show at a path that every candidate, topmost first, may contribute to.
fn merge(layers: &[Layer<'_>], candidates: &[usize], path: &[u8]) -> Result<Option<Node>, Error> {
    let (mut shown, mut described, mut sealed) = (None, None, false);
    let mut merged = Vec::new();
    for &at in candidates {
        let layer = &layers[at];
        let (attributes, opaque) = match look(layer.files, path)? {
            Found::Nothing => continue,
            Found::Other => break,
            Found::Directory { attributes, opaque } => (attributes, opaque),
        };
        if !sealed {
            merged.push(at);
        }
        shown.get_or_insert(attributes);
        if !contains(layer.implied, path) {
            described.get_or_insert(attributes);
        }
        // An opaque directory has new content and is still the one that was described below.
        sealed |= opaque;
        if sealed && described.is_some() {
            break;
        }
    }
    let Some(shown) = shown else { return Ok(None) };
    let attributes = described.unwrap_or(shown);
    let differs = attributes.owner_and_mode() != shown.owner_and_mode();
    let lists_whiteouts = matches!(merged[..], [only] if contains(layers[only].hiding, path));
    Ok(Some(Node { layers: merged, attributes, needed: differs || lists_whiteouts }))
}

/// These paths and all that lead to them.
fn with_parents<'a>(paths: impl Iterator<Item = &'a Vec<u8>>) -> BTreeSet<&'a [u8]> {
    let mut all = BTreeSet::new();
    for path in paths {
        let mut path: &[u8] = path;
        while all.insert(path) && !path.is_empty() {
            path = parent(path);
        }
    }
    all
}

fn contains(sorted: &[Vec<u8>], path: &[u8]) -> bool {
    sorted.binary_search_by(|known| known.as_slice().cmp(path)).is_ok()
}

fn look(layer: BorrowedFd<'_>, path: &[u8]) -> Result<Found, Error> {
    let name = if path.is_empty() { b"." } else { path };
    let directory = match open_directory(layer, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Other),
        Err(errno) => return Err(fault("open", path, errno)),
    };
    let stat = fs::fstat(&directory).map_err(|errno| fault("stat", path, errno))?;
    let mut value = [0; 1];
    let opaque = match fs::fgetxattr(&directory, "trusted.overlay.opaque", &mut value) {
        Ok(length) => length == 1 && value[0] == b'y',
        Err(_) => false,
    };
    let attributes = Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    };
    Ok(Found::Directory { attributes, opaque })
}

/// The names are all ours and no symlink is among them.
fn set(root: BorrowedFd<'_>, path: &[u8], attributes: &Attributes) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    fs::chownat(root, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| fault("chown", path, errno))?;
    fs::chmodat(root, path, Mode::from_raw_mode(attributes.mode), AtFlags::empty())
        .map_err(|errno| fault("chmod", path, errno))
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn fault(operation: &str, path: &[u8], errno: Errno) -> Error {
    Error::io(format!("{operation} directory {} of an image", show(path)), errno)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
    use std::path::Path;

    use super::*;

    /// A layer's files, its implied directories and those with whiteouts.
    type Made = (std::fs::File, Vec<Vec<u8>>, Vec<Vec<u8>>);

    /// A layer of directories with modes; those without one are implied. Opaque ones have a `!`, those with a whiteout
    /// a `~`, files a `=`.
    fn layer(base: &Path, entries: &[(&str, u32)]) -> Made {
        std::fs::create_dir_all(base).unwrap();
        std::fs::set_permissions(base, PermissionsExt::from_mode(0o755)).unwrap();
        let (mut implied, mut hiding) = (Vec::new(), Vec::new());
        for (path, mode) in entries {
            let name = path.trim_end_matches(['!', '=', '~']);
            let full = base.join(name);
            if path.ends_with('=') {
                std::fs::write(&full, "").unwrap();
                continue;
            }
            std::fs::create_dir_all(&full).unwrap();
            let permissions = PermissionsExt::from_mode(if *mode == 0 { 0o755 } else { *mode });
            std::fs::set_permissions(&full, permissions).unwrap();
            if *mode == 0 {
                implied.push(name.as_bytes().to_vec());
            }
            if path.ends_with('~') {
                hiding.push(name.as_bytes().to_vec());
            }
            if path.ends_with('!') {
                let fd = std::fs::File::open(&full).unwrap();
                fs::fsetxattr(&fd, "trusted.overlay.opaque", b"y", fs::XattrFlags::empty()).unwrap();
            }
        }
        implied.sort();
        hiding.sort();
        (std::fs::File::open(base).unwrap(), implied, hiding)
    }

    /// Path and mode of what is planned for these layers, then made.
    fn plan(layers: &[&[(&str, u32)]]) -> Vec<(String, u32)> {
        let base = tempfile::tempdir().unwrap();
        let made: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(at, entries)| layer(&base.path().join(at.to_string()), entries))
            .collect();
        let layers: Vec<Layer<'_>> = made
            .iter()
            .map(|(files, implied, hiding)| Layer { files: files.as_fd(), implied, hiding })
            .collect();
        let plan = Plan::new("image", &layers).unwrap();
        let out = base.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let root = std::fs::File::open(&out).unwrap();
        plan.make(root.as_fd()).unwrap();
        let paths = plan.0.keys().map(|path| String::from_utf8(path.to_vec()).unwrap());
        paths.map(|path| (path.clone(), std::fs::metadata(out.join(path)).unwrap().mode() & 0o7777)).collect()
    }

    fn needs_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("SKIP: trusted xattrs and chown need root");
        }
        !root
    }

    #[test]
    fn what_layers_below_describe_comes_back() {
        if needs_root() {
            return;
        }
        let want = |expected: &[(&str, u32)]| -> Vec<(String, u32)> {
            expected.iter().map(|(path, mode)| ((*path).to_owned(), *mode)).collect()
        };
        // Nothing to do: described, or described alike, or not there below.
        assert!(plan(&[&[("", 0o755), ("tmp", 0o1777)], &[("", 0), ("tmp", 0o700)]]).is_empty());
        assert!(plan(&[&[("", 0o755), ("opt", 0o755)], &[("", 0), ("opt", 0), ("new", 0)]]).is_empty());
        assert!(plan(&[&[("", 0), ("tmp", 0)]]).is_empty());
        // The sticky bit of /tmp, under an implied root that needs nothing itself.
        assert_eq!(
            plan(&[&[("", 0o755), ("tmp", 0o1777)], &[("", 0), ("tmp", 0)]]),
            want(&[("", 0o755), ("tmp", 0o1777)])
        );
        // The root alone, and through a layer that does not have the directory at all.
        assert_eq!(plan(&[&[("", 0o555)], &[("", 0)], &[("", 0)]]), want(&[("", 0o555)]));
        assert_eq!(
            plan(&[
                &[("", 0o755), ("a", 0o700), ("a/b", 0o711)],
                &[("", 0)],
                &[("", 0), ("a", 0o750), ("a/b", 0)]
            ]),
            want(&[("", 0o755), ("a", 0o750), ("a/b", 0o711)])
        );
    }

    #[test]
    fn what_is_hidden_is_not_inherited() {
        if needs_root() {
            return;
        }
        // The middle layer has replaced the directory by a file, or made its parent anew.
        assert!(
            plan(&[&[("", 0o755), ("a", 0o700)], &[("", 0), ("a=", 0)], &[("", 0), ("a", 0)]]).is_empty()
        );
        assert!(
            plan(&[
                &[("", 0o755), ("a", 0o700), ("a/b", 0o700)],
                &[("", 0), ("a!", 0o755)],
                &[("", 0), ("a", 0), ("a/b", 0)]
            ])
            .is_empty()
        );
        // What lies in an opaque directory is new; the directory itself is the old one.
        assert_eq!(
            plan(&[&[("", 0o755), ("a", 0o700), ("a/b", 0o711)], &[("", 0), ("a!", 0), ("a/b", 0)]]),
            [(String::new(), 0o755), ("a".to_owned(), 0o700)]
        );
    }

    #[test]
    fn whiteouts_need_something_to_merge_with() {
        if needs_root() {
            return;
        }
        let paths = |layers: &[&[(&str, u32)]]| -> Vec<String> {
            plan(layers).into_iter().map(|(path, _)| path).collect()
        };
        // There is something below, as in every honest image.
        assert!(paths(&[&[("", 0o755), ("a", 0o755)], &[("", 0o755), ("a~", 0o755)]]).is_empty());
        assert!(paths(&[&[("", 0o755)], &[("~", 0o755)]]).is_empty());
        // There is nothing, or nothing that is seen.
        assert_eq!(paths(&[&[("~", 0o755)]]), [""]);
        assert_eq!(paths(&[&[("", 0o755)], &[("", 0o755), ("a", 0o700), ("a/b~", 0o755)]]), ["", "a", "a/b"]);
        assert_eq!(paths(&[&[("", 0o755), ("a=", 0)], &[("", 0o755), ("a~", 0o755)]]), ["", "a"]);
        assert_eq!(
            plan(&[&[("", 0o755), ("a", 0o755)], &[("", 0), ("a!", 0o711), ("a~", 0o711)]]),
            [(String::new(), 0o755), ("a".to_owned(), 0o711)]
        );
        // Hidden as a whole: it does not matter what is in it.
        assert!(paths(&[&[("", 0o755), ("a~", 0o755)], &[("", 0o755), ("a=", 0)]]).is_empty());
    }
}
