//! The processes of a control group and of all groups below it, by the group's descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

/// Deepest group that is looked into. Whoever owns a group can make them as deep as `cgroup.max.depth` lets it.
const MOST_DEEP: usize = 64;
/// Most groups that are looked into.
const MOST_GROUPS: usize = 4096;

/// The pids in the group and below it, as our pid namespace numbers them, sorted. What cannot be read is left out: a group
/// that has just gone has nobody in it.
pub fn processes(group: impl AsFd) -> Vec<i32> {
    let mut found = Vec::new();
    each(group.as_fd(), &mut |group| {
        match read(group, "cgroup.procs") {
            Ok(text) => found.extend(numbers(&text)),
            // A threaded group has no list of processes (cgroups(7)): its threads tell.
            Err(e) if e.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                let threads = read(group, "cgroup.threads").unwrap_or_default();
                found.extend(numbers(&threads).filter_map(process_of));
            }
            Err(_) => {}
        }
    });
    found.sort_unstable();
    found.dedup();
    found
}

/// SIGKILL to all in the group and below it, which no fork escapes (`cgroup.kill`, cgroup v2, Linux 5.14).
///
/// # Errors
/// ENOENT where there is no such file: v1, a root, an older kernel. EOPNOTSUPP for a threaded group.
pub fn kill(group: impl AsFd) -> rustix::io::Result<()> {
    write(group.as_fd(), "cgroup.kill", b"1")
}

/// Lets nobody in the group and below it be forked any more. Best effort: only a group with the pids controller has the
/// file.
pub fn stop_forks(group: impl AsFd) {
    let _ = write(group.as_fd(), "pids.max", b"0");
}

/// Thaws a group of the v1 freezer and those below it: there a frozen process does not even die of SIGKILL. Any other group
/// is left as it is; frozen by cgroup v2, processes can be killed.
pub fn thaw(group: impl AsFd) {
    if read(group.as_fd(), "freezer.state").is_err() {
        return;
    }
    each(group.as_fd(), &mut |group| {
        if read(group, "freezer.state").is_ok_and(|state| state.trim() != "THAWED") {
            let _ = write(group, "freezer.state", b"THAWED");
        }
    });
}

/// Calls `visit` with the group and all below it, from the top.
fn each(top: BorrowedFd<'_>, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
    fn below(group: BorrowedFd<'_>, deep: usize, left: &mut usize, visit: &mut dyn FnMut(BorrowedFd<'_>)) {
        visit(group);
        let Ok(entries) = Dir::read_from(group) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let group_below =
                entry.file_type() == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..");
            if !group_below || deep >= MOST_DEEP || *left == 0 {
                continue;
            }
            *left -= 1;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(next) = openat(group, name, flags, Mode::empty()) {
                below(next.as_fd(), deep + 1, left, visit);
            }
        }
    }
    let mut left = MOST_GROUPS;
    below(top, 0, &mut left, visit);
}

fn numbers(text: &str) -> impl Iterator<Item = i32> {
    // A process of another pid namespace is 0.
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0)
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

fn read(group: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    io::read_to_string(File::from(open(group, name, OFlags::RDONLY)?))
}

fn write(group: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> rustix::io::Result<()> {
    rustix::io::write(open(group, name, OFlags::WRONLY)?, bytes).map(|_| ())
}

fn open(group: BorrowedFd<'_>, name: &str, access: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(group, name, access | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn all_groups_below_are_looked_into() {
        // A group is a directory with a few files.
        let dir = tempfile::tempdir().unwrap();
        let group = |path: &str, procs: &str| {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
            std::fs::write(dir.path().join(path).join("cgroup.procs"), procs).unwrap();
        };
        group("", "");
        group("a", "12\n0\n7\n");
        group("a/deep/er", "9\n12\n");
        group("b", "");
        let top = File::open(dir.path()).unwrap();
        assert_eq!(processes(&top), [7, 9, 12]);
        assert_eq!(kill(&top), Err(Errno::NOENT));
        thaw(&top);
        assert!(!dir.path().join("freezer.state").exists());
        for path in ["freezer.state", "a/freezer.state"] {
            std::fs::write(dir.path().join(path), "FROZEN\n").unwrap();
        }
        thaw(&top);
        let state = |path: &str| std::fs::read_to_string(dir.path().join(path)).unwrap();
        assert!(
            state("freezer.state").starts_with("THAWED") && state("a/freezer.state").starts_with("THAWED")
        );
    }

    #[test]
    fn we_are_in_a_group_of_ours() {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return };
        let top = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|top| Path::new(top).join("cgroup.procs").exists());
        let Some(Ok(group)) = top.map(|top| File::open(Path::new(top).join(path))) else { return };
        assert!(processes(&group).contains(&std::process::id().cast_signed()));
    }
}
