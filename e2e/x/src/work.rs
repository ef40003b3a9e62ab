//! Where things lie: the repository, cargo's target directory, and our own corner in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The directories that every command works in.
#[derive(Debug, Clone)]
pub struct Work {
    /// Top of the repository.
    pub repo: PathBuf,
    /// cargo's target directory.
    pub target: PathBuf,
    /// Downloads, tools, images and disks: a cache, safe to delete.
    pub cache: PathBuf,
}

impl Work {
    /// Finds the directories, and makes the cache.
    pub fn find() -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let repo =
            repo.canonicalize().with_context(|| format!("find the repository at {}", repo.display()))?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => env::current_dir().context("find the working directory")?.join(dir),
            None => repo.join("target"),
        };
        let cache = target.join("x");
        fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
        Ok(Self { repo, target, cache })
    }

    /// A cache that was filled on another machine. Nothing can be built there.
    pub fn prepared(cache: &Path) -> Self {
        Self { repo: cache.to_owned(), target: cache.to_owned(), cache: cache.to_owned() }
    }

    /// A directory in the cache, made if need be.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    /// Where built and unpacked tools are.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// The OCI layout that holds all test images.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }
}

/// Runs `make` unless the file `stamp` says that this version is there already.
pub fn once(stamp: &Path, version: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    if fs::read_to_string(stamp).is_ok_and(|text| text == version) {
        return Ok(());
    }
    make()?;
    fs::write(stamp, version).with_context(|| format!("write {}", stamp.display()))
}
