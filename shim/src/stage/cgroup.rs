//! Entering the container's cgroups, and which cgroup mounts it sees.

use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_sys::mount::{FileSystem, attach};
use holdfast_sys::path::{Kind, Root};
use rustix::fs::{Mode, OFlags};

use super::launch::{Launch, mounts};
use super::options::Options;
use crate::fault::{OrFail, Result};
use crate::link;

/// f_type of cgroup2 (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Writes ourselves into each v1 hierarchy.
pub fn enter(tasks: &[OwnedFd]) -> Result<()> {
    for tasks in tasks {
        // `0` is the writer, and a process with one thread is moved without the lock that waits for RCU.
        rustix::io::write(tasks, b"0").or_fail("enter cgroup: write 0 to tasks")?;
    }
    Ok(())
}

/// Waits until the agent has placed us; joins what v1 hierarchies it made besides.
pub fn await_placement(link: BorrowedFd<'_>) -> Result<()> {
    enter(&link::await_byte(link, link::PLACED).or_fail("await placement in the cgroup")?)
}

/// What the container sees at its cgroup mount.
#[derive(Debug, PartialEq, Eq)]
pub enum Layout {
    /// cgroup v2.
    Unified,
    /// One mount a hierarchy: the controllers, or `name=...`.
    Hierarchies(Vec<String>),
}

/// Looks at the host's cgroups, if the spec has a cgroup mount at all.
pub fn layout(launch: &Launch) -> Result<Layout> {
    let wanted = mounts(launch).iter().any(|mount| mount.typ().as_deref() == Some("cgroup"));
    if !wanted || host_is_unified() {
        return Ok(Layout::Unified);
    }
    let mut text = String::new();
    File::open("/proc/self/cgroup")
        .and_then(|mut file| file.read_to_string(&mut text))
        .or_fail("read /proc/self/cgroup")?;
    Ok(Layout::Hierarchies(hierarchies(&text)))
}

fn host_is_unified() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

/// Lines are `id:controllers:path`; v2 has no controllers, and is left out of a v1 layout as runc does.
fn hierarchies(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|controllers| !controllers.is_empty())
        .map(str::to_owned)
        .collect();
    found.sort();
    found
}

/// Makes the spec's cgroup mount at `target`.
pub fn mount(layout: &Layout, options: &Options, target: &OwnedFd, path: &Path, root: &Root) -> Result<()> {
    match layout {
        Layout::Unified => {
            let mount =
                FileSystem::open("cgroup2").and_then(|fs| fs.mount(options.set)).or_fail("mount cgroup2")?;
            attach(mount, target).or_fail("attach cgroup2")
        }
        Layout::Hierarchies(all) => mount_hierarchies(all, options, target, path, root),
    }
}

fn mount_hierarchies(
    all: &[String],
    options: &Options,
    target: &OwnedFd,
    path: &Path,
    root: &Root,
) -> Result<()> {
    let fs = FileSystem::open("tmpfs").or_fail("mount /sys/fs/cgroup")?;
    fs.string("mode", "755").or_fail("mount /sys/fs/cgroup")?;
    let top = fs.mount(options.set & !holdfast_sys::mount::RDONLY).or_fail("mount /sys/fs/cgroup")?;
    for hierarchy in all {
        let name = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
        rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755)).or_fail("make cgroup mount point")?;
        // `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
        for controller in name.split(',').filter(|_| name.contains(',')) {
            rustix::fs::symlinkat(name, &top, controller).or_fail("link cgroup controller")?;
        }
    }
    let read_only = options.set & holdfast_sys::mount::RDONLY != 0;
    if read_only {
        let change = holdfast_sys::mount::Change { set: holdfast_sys::mount::RDONLY, ..Default::default() };
        holdfast_sys::mount::set_attributes(&top, false, change).or_fail("make /sys/fs/cgroup read-only")?;
    }
    // Only an attached tree takes further mounts before Linux 6.15.
    attach(&top, target).or_fail("attach /sys/fs/cgroup")?;
    for hierarchy in all {
        let name = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
        let mount = hierarchy_mount(hierarchy, options.set)
            .or_fail(&format!("mount cgroup hierarchy {hierarchy}"))?;
        let place = root.ensure(&path.join(name), Kind::Directory).or_fail("open cgroup mount point")?;
        attach(mount, place).or_fail("attach cgroup hierarchy")?;
    }
    Ok(())
}

fn hierarchy_mount(hierarchy: &str, attributes: u64) -> holdfast_sys::error::Result<OwnedFd> {
    let fs = FileSystem::open("cgroup")?;
    match hierarchy.strip_prefix("name=") {
        Some(name) => {
            fs.flag("none")?;
            fs.string("name", name)?;
        }
        None => hierarchy.split(',').try_for_each(|controller| fs.flag(controller))?,
    }
    fs.mount(attributes)
}

/// The cgroup v2 that a process is in now, for an exec that may not be born in the container's own (EBUSY: it has
/// controllers for its children).
pub fn unified_of(pid: i32) -> Result<OwnedFd> {
    const STAGE: &str = "open the cgroup that the container is in";
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).or_fail(STAGE)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let top = if host_is_unified() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
    let path = format!("{top}/{}", path.trim_start_matches('/'));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).or_fail(STAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_shows_its_v1_hierarchies() {
        let text = "9:name=systemd:/\n4:memory:/a:b\n3:cpu,cpuacct:/\n0::/x\n";
        assert_eq!(hierarchies(text), ["cpu,cpuacct", "memory", "name=systemd"]);
        assert!(hierarchies("0::/\n").is_empty());
    }
}
