//! Entering the container's cgroups, and which cgroup mounts it sees.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use holdfast_sys::mount::{self, FileSystem, attach};
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
///
/// We are in no group of the container's yet, so nothing but this ends us with a shim that is killed meanwhile: its end of
/// the link is open in us as well.
pub fn await_placement(link: BorrowedFd<'_>) -> Result<()> {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    enter(&link::await_byte(link, link::PLACED).or_fail("await placement in the cgroup")?)
}

/// What the container sees at its cgroup mount.
#[derive(Debug)]
pub enum Layout {
    /// cgroup v2: what its cgroup namespace shows, or the host's all.
    Unified,
    /// v1: its own group of each hierarchy, detached, by the hierarchy's name. There is no cgroup namespace, and a mount of
    /// the whole hierarchy would show everybody's groups.
    Groups(Vec<(String, OwnedFd)>),
}

impl Layout {
    /// All descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let groups = match self {
            Self::Unified => &[],
            Self::Groups(groups) => groups.as_slice(),
        };
        groups.iter().map(|(_, tree)| tree.as_raw_fd())
    }
}

/// Looks at the host's cgroups, if the spec has a cgroup mount at all. We are in the container's by now.
pub fn layout(launch: &Launch) -> Result<Layout> {
    let Some(wanted) = mounts(launch).iter().find(|mount| mount.typ().as_deref() == Some("cgroup")) else {
        return Ok(Layout::Unified);
    };
    if host_is_unified() {
        return Ok(Layout::Unified);
    }
    let options = Options::parse(wanted.options().as_deref().unwrap_or_default());
    let read = |path: &str| std::fs::read_to_string(path).or_fail(&format!("read {path}"));
    let found = groups(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let copy = |(name, path): (String, PathBuf)| {
        let stage = format!("copy cgroup {}", path.display());
        let tree = mount::copy_path(&path, false).or_fail(&stage)?;
        options.apply(&tree).or_fail(&stage)?;
        Ok((name, tree))
    };
    Ok(Layout::Groups(found.into_iter().map(copy).collect::<Result<_>>()?))
}

fn host_is_unified() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

/// The v1 groups of a process and where they are to be seen. Lines of the first text are `id:controllers:path`
/// (cgroups(7)); v2 has no controllers, and is left out of a v1 layout as runc does. A hierarchy that is not mounted is left
/// out as well.
fn groups(memberships: &str, mountinfo: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = memberships
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let path = mountinfo.lines().find_map(|mount| seen_at(mount, controllers, Path::new(path)))?;
            Some((controllers.strip_prefix("name=").unwrap_or(controllers).to_owned(), path))
        })
        .collect();
    found.sort();
    found
}

/// Path of the group in a mount, if the mount has these controllers and shows it (fields of
/// proc_pid_mountinfo(5)).
fn seen_at(mount: &str, controllers: &str, group: &Path) -> Option<PathBuf> {
    let (place, kind) = mount.split_once(" - ")?;
    let (kind, options) = kind.split_once(' ')?;
    let options: Vec<_> = options.split_once(' ')?.1.split(',').collect();
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let is_it = kind == "cgroup"
        && !controllers.is_empty()
        && controllers.split(',').all(|controller| options.contains(&controller));
    let below = group.strip_prefix(root).ok().filter(|_| is_it)?;
    // The components alone: to join nothing adds a slash.
    Some(Path::new(point).join(below).components().collect())
}

/// Makes the spec's cgroup mount at `target`.
pub fn mount(layout: &Layout, options: &Options, target: &OwnedFd, path: &Path, root: &Root) -> Result<()> {
    match layout {
        Layout::Unified => {
            let mount =
                FileSystem::open("cgroup2").and_then(|fs| fs.mount(options.set)).or_fail("mount cgroup2")?;
            attach(mount, target).or_fail("attach cgroup2")
        }
        Layout::Groups(all) => mount_groups(all, options, target, path, root),
    }
}

fn mount_groups(
    all: &[(String, OwnedFd)],
    options: &Options,
    target: &OwnedFd,
    path: &Path,
    root: &Root,
) -> Result<()> {
    let fs = FileSystem::open("tmpfs").or_fail("mount /sys/fs/cgroup")?;
    fs.string("mode", "755").or_fail("mount /sys/fs/cgroup")?;
    let top = fs.mount(options.set & !mount::RDONLY).or_fail("mount /sys/fs/cgroup")?;
    for (name, _) in all {
        rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755)).or_fail("make cgroup mount point")?;
        // `cpu,cpuacct` is also found as `cpu` and as `cpuacct`.
        for controller in name.split(',').filter(|_| name.contains(',')) {
            rustix::fs::symlinkat(name, &top, controller).or_fail("link cgroup controller")?;
        }
    }
    if options.set & mount::RDONLY != 0 {
        let change = mount::Change { set: mount::RDONLY, ..mount::Change::default() };
        mount::set_attributes(&top, false, change).or_fail("make /sys/fs/cgroup read-only")?;
    }
    // Only an attached tree takes further mounts before Linux 6.15.
    attach(&top, target).or_fail("attach /sys/fs/cgroup")?;
    for (name, tree) in all {
        let place = root.ensure(&path.join(name), Kind::Directory).or_fail("open cgroup mount point")?;
        attach(tree, place).or_fail(&format!("attach cgroup hierarchy {name}"))?;
    }
    Ok(())
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
    fn groups_of_a_hybrid_host() {
        let memberships = "9:name=systemd:/a b\n4:memory:/p/c:1\n3:cpu,cpuacct:/\n2:pids:/p\n0::/x\n";
        let mountinfo = "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
            30 22 0:26 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd\n\
            31 22 0:27 /other /elsewhere rw - cgroup cgroup rw,memory\n\
            32 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 22 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 22 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = groups(memberships, mountinfo);
        let found: Vec<_> =
            found.iter().map(|(name, path)| (name.as_str(), path.to_str().unwrap_or(""))).collect();
        assert_eq!(
            found,
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu"),
                ("memory", "/sys/fs/cgroup/memory/p/c:1"),
                ("systemd", "/sys/fs/cgroup/systemd/a b"),
            ]
        );
        assert!(groups("0::/\n", mountinfo).is_empty());
        // In a container whose mounts show a part of the hierarchy.
        let nested = "31 22 0:27 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let found = groups("4:memory:/docker/1/p/c\n", nested);
        assert_eq!(found, [("memory".to_owned(), "/sys/fs/cgroup/memory/p/c".into())]);
    }
}
