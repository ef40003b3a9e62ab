//! Something on the host that links of hostile images and volumes lead to: it has to stay as it is.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Where the links of the hostile test images lead.
const PATH: &str = "/var/tmp/holdfast-e2e-canary";
const CONTENT: &str = "of the host\n";

/// A directory with one file. Gone when it is dropped.
#[derive(Debug)]
pub struct Canary {
    path: PathBuf,
}

impl Canary {
    /// Makes it.
    pub fn put() -> Result<Self> {
        let path = PathBuf::from(PATH);
        if path.exists() {
            fs::remove_dir_all(&path).context("remove an old canary")?;
        }
        fs::create_dir(&path).context("make the canary")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        fs::write(path.join("file"), CONTENT)?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if anything was made, changed or covered there.
    pub fn untouched(&self) -> Result<()> {
        let names: Vec<_> =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
        ensure!(names == ["file"], "the canary has {names:?}");
        ensure!(fs::read_to_string(self.path.join("file"))? == CONTENT, "the canary's file was changed");
        let (meta, parent) = (fs::metadata(&self.path)?, fs::metadata("/var/tmp")?);
        ensure!(meta.mode() & 0o7777 == 0o755 && meta.uid() == 0, "the canary's mode or owner was changed");
        ensure!(meta.dev() == parent.dev(), "something is mounted on the canary");
        Ok(())
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
