//! Disks: one that logs what is asked of it, loop devices, and file systems on them.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{
    place,
    process::{Process, stdout},
    wait,
};

/// Bytes of a disk. XFS wants 300 MiB.
pub const SIZE: u64 = 512 << 20;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// As mkfs.ext4 makes it.
    Ext4,
    /// As mkfs.xfs makes it.
    Xfs,
}

impl FileSystem {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// As mount(8) names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Whether the kernel has it, or finds a module of it.
    fn is_known(self) -> bool {
        let listed = || {
            let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
            text.lines().any(|line| line.split_whitespace().last() == Some(self.name()))
        };
        listed() || (stdout("modprobe", [self.name()]).is_ok() && listed())
    }

    /// Options of mkfs. Discards would make the log long and tell nothing.
    fn make(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["-q", "-K"],
        }
    }

    /// Options of mount. Names that reach the disk long before content does are what a careless writer loses files by: ext4
    /// commits them every second here. XFS after a cut may meet its own UUID again, mounted a moment ago.
    fn mount(self) -> &'static str {
        match self {
            Self::Ext4 => "commit=1",
            Self::Xfs => "nouuid",
        }
    }
}

impl FromStr for FileSystem {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|file_system| file_system.name() == name);
        found.with_context(|| format!("{name}: not one of ext4, xfs"))
    }
}

/// Reason that no disk that logs can be had here, if there is one. A program that is not there is an error under `cargo x`.
///
/// # Errors
/// See above.
pub fn missing() -> Result<Option<String>> {
    let programs = ["qemu-storage-daemon", "losetup", "mkfs.ext4", "mkfs.xfs"];
    if let Some(program) = programs.into_iter().find(|program| !is_there(program)) {
        ensure!(!place::driven(), "{program} is not there");
        return Ok(Some(format!("{program} is not there: run cargo x prepare")));
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = File::options().read(true).write(true).open(device) {
            return Ok(Some(format!("open {device}: {error}")));
        }
    }
    let lacking = FileSystem::ALL.into_iter().find(|kind| !kind.is_known());
    Ok(lacking.map(|kind| format!("the kernel has no {}", kind.name())))
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// An empty disk whose writes and flushes are logged: QEMU's blklogwrites driver behind a FUSE export.
#[derive(Debug)]
pub struct Logged {
    /// The file that is the disk.
    pub disk: PathBuf,
    server: Process,
}

impl Logged {
    /// `dir` is for the disk's own content and its messages; `log` is written anew.
    ///
    /// # Errors
    /// There is no qemu-storage-daemon, or it cannot do it.
    pub fn start(dir: &Path, log: &Path) -> Result<Self> {
        let disk = dir.join("logged");
        let content = dir.join("logged.img");
        File::create(&content).and_then(|file| file.set_len(SIZE)).context("make a disk")?;
        File::create(log).with_context(|| format!("create {}", log.display()))?;
        File::create(&disk).with_context(|| format!("create {}", disk.display()))?;
        // What is flushed is logged, and needs no flush of the file that it lies in.
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.no-flush=on", path.display())
        };
        let raw = |name: &str, file: &str| format!("driver=raw,node-name={name},file={file}");
        let logging = "driver=blklogwrites,node-name=logging,file=content,log=log,log-sector-size=512,\
                       log-super-update-interval=1";
        let export = format!(
            "type=fuse,id=export,node-name=logging,mountpoint={},growable=off,writable=on",
            disk.display()
        );
        let messages = File::create(dir.join("storage.log")).context("create a file for messages")?;
        let mut server = Process::spawn(
            Command::new("qemu-storage-daemon")
                .args([
                    "--blockdev",
                    &file("content-file", &content),
                    "--blockdev",
                    &raw("content", "content-file"),
                ])
                .args(["--blockdev", &file("log-file", log), "--blockdev", &raw("log", "log-file")])
                .args(["--blockdev", logging, "--export", &export])
                .stdin(Stdio::null())
                .stdout(messages.try_clone().context("open the file for messages")?)
                .stderr(messages),
        )?;
        wait::until("the disk that logs", wait::LIMIT, || {
            if let Some(status) = server.ended()? {
                bail!("{status}: {}", fs::read_to_string(dir.join("storage.log")).unwrap_or_default().trim());
            }
            Ok(disk.metadata().is_ok_and(|disk| disk.len() == SIZE).then_some(()))
        })?;
        Ok(Self { disk, server })
    }
}

impl Drop for Logged {
    /// The mount of the export outlives a server that is killed.
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = stdout("umount", ["--lazy".as_ref(), self.disk.as_os_str()]);
    }
}

/// A loop device, detached when it is dropped: at once, or as soon as nothing is mounted from it.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches a file.
    ///
    /// # Errors
    /// That of losetup(8).
    pub fn attach(file: &Path) -> Result<Self> {
        let printed = stdout("losetup", ["--find".as_ref(), "--show".as_ref(), file.as_os_str()])?;
        let device = printed.trim();
        ensure!(device.starts_with("/dev/loop"), "losetup printed {printed:?}");
        Ok(Self(device.into()))
    }

    /// Its path.
    pub fn device(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = stdout("losetup", ["--detach".as_ref(), self.0.as_os_str()]);
    }
}

/// A mounted file system, unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// Makes a file system on a disk and mounts it.
    ///
    /// # Errors
    /// Those of losetup, mkfs and mount.
    pub fn make(kind: FileSystem, disk: &Path, point: &Path) -> Result<Self> {
        let device = Loop::attach(disk)?;
        let options = kind.make().iter().map(AsRef::as_ref);
        stdout(&format!("mkfs.{}", kind.name()), options.chain([device.device().as_os_str()]))?;
        Self::on(kind, device, point)
    }

    /// Mounts the file system of a disk, which recovers it if need be.
    ///
    /// # Errors
    /// Those of losetup and mount.
    pub fn open(kind: FileSystem, disk: &Path, point: &Path) -> Result<Self> {
        Self::on(kind, Loop::attach(disk)?, point)
    }

    fn on(kind: FileSystem, device: Loop, point: &Path) -> Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("make {}", point.display()))?;
        stdout(
            "mount",
            [
                "-t".as_ref(),
                kind.name().as_ref(),
                "-o".as_ref(),
                kind.mount().as_ref(),
                device.device().as_os_str(),
                point.as_os_str(),
            ],
        )?;
        // It goes with the mount from now on, and so with this namespace, however that ends.
        drop(device);
        Ok(Self { point: point.to_owned() })
    }

    /// Unmounts it, which fails while somebody uses it.
    ///
    /// # Errors
    /// It is still busy after the usual wait.
    pub fn close(self) -> Result<()> {
        wait::until("the end of all use of the file system", wait::LIMIT, || {
            stdout("umount", [&self.point]).map(Some)
        })
        .map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Closed, or a way out of something that failed.
        if stdout("mountpoint", ["-q".as_ref(), self.point.as_os_str()]).is_ok() {
            let _ = stdout("umount", ["--lazy".as_ref(), self.point.as_os_str()]);
        }
    }
}
