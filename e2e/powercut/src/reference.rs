//! The content of the layers: what a store that met no power cut has, to compare with.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use anyhow::{Context, Result};
use rustix::fs::{lgetxattr, llistxattr};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Directories of the store in which each entry is a tree that never changes.
const TREES: [&str; 2] = ["layers", "directories"];

/// Lines that describe each file of a tree, by `layers/<hex>` or `directories/<hex>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference(BTreeMap<String, Vec<String>>);

impl Reference {
    /// Reads a store (`<root>/images`).
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(store: &Path) -> Result<Self> {
        let mut trees = BTreeMap::new();
        for kind in TREES {
            for (name, path) in entries(&store.join(kind))? {
                let mut tree = Tree::default();
                match tree.describe(&path.join("fs"), "") {
                    Ok(()) => drop(trees.insert(format!("{kind}/{name}"), tree.lines)),
                    // It left the store while it was read: what nobody uses is removed in the background.
                    Err(_) if !path.exists() => {}
                    Err(error) => return Err(error).with_context(|| format!("read {kind}/{name}")),
                }
            }
        }
        Ok(Self(trees))
    }

    /// Number of trees.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Faults of a store: trees that differ from these, and blobs that do not have the digest that names them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn differences(&self, store: &Path) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (name, lines) in Self::of(store)?.0 {
            match self.0.get(&name) {
                None => wrong.push(format!("{name} was never unpacked")),
                Some(known) => wrong.extend(difference(&name, known, &lines)),
            }
        }
        for (name, path) in entries(&store.join("blobs/sha256"))? {
            let is = match fs::read(&path) {
                Ok(bytes) => digest(&bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
            };
            if is != name {
                wrong.push(format!("blob {name} has the digest {is}"));
            }
        }
        Ok(wrong)
    }
}

/// The first line that differs.
fn difference(name: &str, known: &[String], lines: &[String]) -> Option<String> {
    if known == lines {
        return None;
    }
    let lost = known.iter().find(|line| !lines.contains(line));
    let new = lines.iter().find(|line| !known.contains(line));
    let shown = |line: Option<&String>| line.map_or("nothing", String::as_str).to_owned();
    Some(format!("{name} has \"{}\" for \"{}\"", shown(new), shown(lost)))
}

/// Names and paths in a directory; none if it is not there.
fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.sort();
    Ok(found)
}

/// A tree that is being read.
#[derive(Debug, Default)]
struct Tree {
    lines: Vec<String>,
    /// Digests of files that have several names, by inode.
    links: BTreeMap<u64, String>,
}

impl Tree {
    /// Type, mode, owner, extended attributes, time and content of a file and of all below it.
    fn describe(&mut self, path: &Path, name: &str) -> Result<()> {
        let meta = fs::symlink_metadata(path).with_context(|| format!("stat {name:?}"))?;
        let content = self.content(path, &meta).with_context(|| format!("read {name:?}"))?;
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        // Directories that are no entry of their layer, and whiteouts, have the time at which they were made.
        let has_time = meta.is_file() || meta.is_symlink();
        let time = if has_time { format!(" at {}", meta.mtime()) } else { String::new() };
        self.lines.push(format!("/{name}: {mode:o} {uid}:{gid}{time}{} {content}", attributes(path)?));
        if meta.is_dir() {
            for (entry, path) in entries(path)? {
                let below = if name.is_empty() { entry } else { format!("{name}/{entry}") };
                self.describe(&path, &below)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, path: &Path, meta: &fs::Metadata) -> Result<String> {
        if meta.is_symlink() {
            return Ok(format!("-> {}", fs::read_link(path)?.display()));
        }
        if !meta.is_file() {
            return Ok(meta.rdev().to_string());
        }
        if let Some(known) = self.links.get(&meta.ino()) {
            return Ok(known.clone());
        }
        let digest = format!("{} links, {}", meta.nlink(), digest(&fs::read(path)?));
        if meta.nlink() > 1 {
            self.links.insert(meta.ino(), digest.clone());
        }
        Ok(digest)
    }
}

fn attributes(path: &Path) -> Result<String> {
    let mut names = vec![0; 4096];
    let length =
        llistxattr(path, &mut names[..]).with_context(|| format!("list attributes of {}", path.display()))?;
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let length = lgetxattr(path, CString::new(name)?, &mut value[..]).context("read an attribute")?;
        let name = std::ffi::OsStr::from_bytes(name).to_string_lossy();
        found.push(format!(" {name}={:?}", &value[..length]));
    }
    found.sort();
    Ok(found.concat())
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() -> Result<()> {
        let store = tempfile::tempdir()?;
        let files = store.path().join("layers/aa/fs/etc");
        fs::create_dir_all(&files)?;
        fs::write(files.join("passwd"), "root")?;
        let reference = Reference::of(store.path())?;
        assert_eq!(reference.differences(store.path())?, Vec::<String>::new());
        fs::write(files.join("passwd"), "r00t")?;
        assert_eq!(reference.differences(store.path())?.len(), 1);
        fs::create_dir_all(store.path().join("blobs/sha256"))?;
        fs::write(store.path().join("blobs/sha256/00"), "")?;
        assert_eq!(reference.differences(store.path())?.len(), 2);
        Ok(())
    }
}
