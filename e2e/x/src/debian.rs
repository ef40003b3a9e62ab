//! Trees of Debian, made by debootstrap from the mirror that apt here is set up with.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result};

use crate::{
    apt,
    run::{command, quiet, step},
    work::Work,
};

/// Makes a tree of that release with those packages, in the place of one that is there. In a mount namespace of its own:
/// debootstrap mounts in the tree, and a failure would leave that behind.
pub fn bootstrap(work: &Work, release: &str, packages: &[&str], tree: &Path) -> Result<()> {
    apt::install(work, &["debootstrap"])?;
    let log = work.dir("logs")?.join(format!("debootstrap-{release}.log"));
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    let include = format!("--include={}", packages.join(","));
    let mut unshare =
        command("unshare", ["--mount", "--", "debootstrap", "--variant=minbase", &include, release]);
    unshare.arg(tree).arg(apt::mirror()?);
    step(&format!("debootstrap of Debian {release}"), || quiet(&mut unshare, &log))
}

/// Makes a symbolic link, in the place of a file that is there.
pub fn link(target: &str, path: &Path) -> Result<()> {
    let _ = fs::remove_file(path);
    symlink(target, path).with_context(|| format!("link {}", path.display()))
}
