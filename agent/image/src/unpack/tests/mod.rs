//! The unpacker against archives, honest and hostile.

mod build;
mod corpus;
mod layers;
mod limits;
mod parser;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{Failed, Fault, Limits, Unpacked, unpack};

/// Without root nothing can be unpacked.
macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: unpacking needs root (chown, mknod, trusted xattrs)");
            return;
        }
    };
}
use needs_root;

/// A layer's directory with things around it that nobody may touch.
struct Place {
    base: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        for name in ["outer/layer/fs", "outer/layer/trash", "outer/canary", "outer/layer/canary"] {
            fs::create_dir_all(base.path().join(name)).unwrap();
        }
        for name in ["outer/canary/canary", "outer/layer/canary/canary", "outer/layer/sibling"] {
            fs::write(base.path().join(name), "alive").unwrap();
        }
        fs::set_permissions(base.path().join("outer/layer/fs"), PermissionsExt::from_mode(0o755)).unwrap();
        Self { base }
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("outer/layer/fs")
    }

    fn unpack(&self, blob: &[u8]) -> Result<Unpacked, Failed> {
        self.unpack_with(blob, &Limits { reserve: 0, ..Limits::default() })
    }

    fn unpack_with(&self, blob: &[u8], limits: &Limits) -> Result<Unpacked, Failed> {
        let root = fs::File::open(self.root()).unwrap();
        let trash = fs::File::open(self.root().parent().unwrap().join("trash")).unwrap();
        unpack(blob, root.as_fd(), trash.as_fd(), limits, &AtomicBool::new(false))
    }

    /// All that is not the layer, as far as an intruder could change it.
    fn outside(&self) -> BTreeMap<PathBuf, (u32, u64, i64, u32, Vec<u8>)> {
        let mut seen = BTreeMap::new();
        describe(self.base.path(), &self.root(), &mut seen);
        seen
    }
}

fn describe(path: &Path, except: &Path, seen: &mut BTreeMap<PathBuf, (u32, u64, i64, u32, Vec<u8>)>) {
    if path == except || path.ends_with("outer/layer/trash") {
        return;
    }
    let metadata = fs::symlink_metadata(path).unwrap();
    // The tests themselves make the layer's directory anew.
    let mtime = if path.ends_with("outer/layer") { 0 } else { metadata.mtime() };
    let content = if metadata.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    let (links, uid) =
        if metadata.is_file() { (metadata.nlink(), metadata.uid()) } else { (0, metadata.uid()) };
    seen.insert(path.to_owned(), (metadata.mode(), links, mtime, uid, content));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            describe(&entry.unwrap().path(), except, seen);
        }
    }
}

fn fault(result: Result<Unpacked, Failed>) -> Fault {
    result.expect_err("it should have been refused").fault
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}
