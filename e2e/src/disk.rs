//! A small file system of a test's own, which can be filled to the last byte or inode.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::process;

/// Smaller ones mkfs.xfs does not make; the image store leaves 128 MiB of it alone.
const BYTES: u64 = 400 << 20;

/// The resource that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Blocks.
    Bytes,
    /// Inodes.
    Inodes,
}

/// A mounted file system, in a file beside its mount point. Nothing of it is reserved for root.
#[derive(Debug)]
pub struct Disk {
    /// Its mount point.
    pub path: PathBuf,
    next: AtomicU64,
}

impl Disk {
    /// Whether this machine can make and mount such file systems; a line says why not.
    pub fn can(kind: &str) -> bool {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let made = process::run(Command::new(format!("mkfs.{kind}")).arg("-V")).is_ok();
        let can = made && known.lines().any(|line| line.trim() == kind);
        if !can {
            println!("SKIP: {kind} cannot be made or mounted here");
        }
        can
    }

    /// Makes one of `kind` (ext4, xfs or btrfs) and mounts it at `path`.
    pub fn mount(kind: &str, path: &Path) -> Result<Self> {
        let file = path.with_extension("disk");
        fs::create_dir_all(path).context("make the mount point")?;
        File::create(&file).and_then(|file| file.set_len(BYTES)).context("make the file of a disk")?;
        let options: &[&str] = match kind {
            "ext4" => &["-q", "-m", "0", "-N", "8192"],
            "xfs" => &["-q", "-i", "maxpct=1"],
            _ => &["-q", "--mixed"],
        };
        let name = file.to_string_lossy();
        process::stdout(&format!("mkfs.{kind}"), options.iter().copied().chain([&*name]))?;
        process::stdout("mount", ["-o", "loop", &name, &path.to_string_lossy()])?;
        // Later there may be no room for it.
        fs::create_dir(path.join("fill")).context("make a directory of what fills")?;
        Ok(Self { path: path.to_owned(), next: AtomicU64::new(0) })
    }

    /// Takes all that is left.
    pub fn fill(&self, with: Shortage) -> Result<()> {
        let fill = self.path.join("fill");
        if with == Shortage::Bytes {
            while self.allocate(&fill, 16 << 20).is_ok() {}
            let mut size = 1 << 20;
            while size >= 512 {
                if self.write(&fill, size).is_err() {
                    size /= 2;
                }
            }
        }
        while File::create(self.name(&fill)).is_ok() {}
        let probe = File::create(self.name(&fill)).and_then(|mut file| file.write_all(b"x"));
        ensure!(probe.is_err(), "there still is room");
        Ok(())
    }

    /// Gives back what [`Disk::fill`] took.
    pub fn free(&self) -> Result<()> {
        for entry in fs::read_dir(self.path.join("fill"))? {
            fs::remove_file(entry?.path()).context("empty the disk")?;
        }
        // btrfs counts it as free only then.
        process::stdout("sync", ["-f".as_ref(), self.path.as_os_str()]).map(drop)
    }

    fn name(&self, fill: &Path) -> PathBuf {
        fill.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn allocate(&self, fill: &Path, size: i64) -> io::Result<()> {
        Ok(fallocate(File::create(self.name(fill))?, FallocateFlags::empty(), 0, size)?)
    }

    fn write(&self, fill: &Path, size: usize) -> io::Result<()> {
        let path = self.name(fill);
        fs::write(&path, vec![b'x'; size])?;
        File::open(path)?.sync_all()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = process::stdout("umount", ["--lazy".as_ref(), self.path.as_os_str()]);
        let _ = fs::remove_file(self.path.with_extension("disk"));
    }
}
