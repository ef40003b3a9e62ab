//! The system disk: Debian trixie by debootstrap, from the mirror that apt here is set up with.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    debian::{self, link},
    run::{command, quiet, step},
    work::{Work, once},
};

/// What a machine boots from.
#[derive(Debug, Clone)]
pub struct System {
    /// The disk.
    pub disk: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Initial file system.
    pub initrd: PathBuf,
}

/// Size of the swap file.
const SWAP_MIB: usize = 128;
/// Raised when what follows changes.
const GENERATION: &str = "5";

const PACKAGES: &[&str] = &[
    "apparmor",
    "crun",
    "curl",
    "dbus",
    "init",
    "iproute2",
    "iptables",
    "kmod",
    "libseccomp2",
    "linux-image-cloud-amd64",
    "nftables",
    "policycoreutils",
    "procps",
    "selinux-policy-default",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
    "util-linux-extra",
    "xz-utils",
];

/// Builds the disk, or finds the one that was built before.
pub fn prepare(work: &Work, dir: &Path) -> Result<System> {
    let system =
        System { disk: dir.join("system.ext4"), kernel: dir.join("vmlinuz"), initrd: dir.join("initrd.img") };
    once(&dir.join("system.stamp"), GENERATION, || {
        let tree = dir.join("tree");
        debian::bootstrap(work, "trixie", PACKAGES, &tree)?;
        settle(&tree)?;
        take_boot_files(&tree, &system)?;
        let log = work.dir("logs")?.join("system-disk.log");
        step("making the system disk", || {
            let _ = fs::remove_file(&system.disk);
            // Larger than its content: containers live on it.
            let args = ["-q", "-F", "-L", "system", "-E", "lazy_itable_init=1", "-d"];
            quiet(command("mkfs.ext4", args).arg(&tree).arg(&system.disk).arg("6G"), &log)
        })?;
        fs::remove_dir_all(&tree).context("remove the tree")
    })?;
    Ok(system)
}

/// A root without password on the console, no timers, and the one service that this machine is for.
fn settle(tree: &Path) -> Result<()> {
    let etc = tree.join("etc");
    let write = |path: &str, text: &str| {
        let path = etc.join(path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    write("hostname", "holdfast-vm\n")?;
    // sudo complains if the name is unknown, and critest takes any complaint for a failure.
    write("hosts", "127.0.0.1 localhost\n127.0.1.1 holdfast-vm\n::1 localhost\n")?;
    write("fstab", "/dev/vda / ext4 rw 0 1\n/dev/vdb /e2e ext4 rw,nofail 0 2\n")?;
    write("selinux/config", "SELINUX=permissive\nSELINUXTYPE=default\n")?;
    write("systemd/system/holdfast-e2e.service", SERVICE)?;
    make_swap_file(&tree.join("swapfile"))?;
    fs::create_dir_all(tree.join("e2e")).context("make the mount point")?;
    let units = etc.join("systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).context("make multi-user.target.wants")?;
    link("../holdfast-e2e.service", &wants.join("holdfast-e2e.service"))?;
    for unit in MASKED {
        link("/dev/null", &units.join(unit))?;
    }
    Ok(())
}

/// Not sparse: the kernel swaps to no holes.
fn make_swap_file(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path).context("make the swap file")?;
    let block = vec![0xa5; 1 << 20];
    for _ in 0..SWAP_MIB {
        file.write_all(&block).context("fill the swap file")?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("close the swap file")
}

/// What would come and go while the tests count.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "systemd-networkd-wait-online.service",
    "systemd-tmpfiles-clean.timer",
];

const SERVICE: &str = "[Unit]\n\
    Description=End-to-end tests of Holdfast\n\
    RequiresMountsFor=/e2e\n\
    After=multi-user.target dbus.service apparmor.service\n\
    SuccessAction=poweroff-force\n\
    FailureAction=poweroff-force\n\
    [Service]\n\
    Type=oneshot\n\
    ExecStart=/bin/sh /e2e/run.sh\n\
    ExecStopPost=/bin/sync\n\
    TimeoutStartSec=infinity\n\
    Delegate=yes\n\
    TasksMax=infinity\n\
    LimitNOFILE=1048576\n\
    StandardInput=null\n\
    StandardOutput=tty\n\
    StandardError=tty\n\
    TTYPath=/dev/ttyS0\n";

/// The machine is started with kernel and initrd from outside, so the disk needs no boot loader.
fn take_boot_files(tree: &Path, system: &System) -> Result<()> {
    let boot = tree.join("boot");
    for (prefix, to) in [("vmlinuz-", &system.kernel), ("initrd.img-", &system.initrd)] {
        let entries = fs::read_dir(&boot).context("list /boot of the tree")?.flatten();
        let found = entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        let from = found.with_context(|| format!("no {prefix} in the tree"))?;
        fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}
