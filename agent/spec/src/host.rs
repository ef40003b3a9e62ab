//! What this node can do.

use std::fs;

use rustix::fs::StatVfsMountFlags;

use crate::{caps::CapSet, selinux::Contexts};

/// Facts about the node, looked up once. They do not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Our own bounding set: no container can have more, unless it has a user namespace.
    pub bounding: CapSet,
    /// The kernel's highest capability.
    pub last_cap: u8,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// cgroup v2 alone is mounted at /sys/fs/cgroup.
    pub unified_cgroups: bool,
    /// AppArmor is on.
    pub apparmor: bool,
    /// The loaded AppArmor profile that RuntimeDefault stands for; `None`: there is none, and nothing is set.
    pub apparmor_default: Option<String>,
    /// SELinux is on, and its policy gives containers these contexts.
    pub selinux: Option<Contexts>,
    /// Number of group IDs that exist from 0 on: not all of them in a user namespace.
    pub groups: u32,
    /// /proc/sys may be written to: not where we run in somebody's container, or under ProtectKernelTunables.
    pub writable_sysctls: bool,
    /// What Status tells the kubelet.
    pub features: Features,
}

/// Features of the runtime handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// mount_setattr(2) (Linux 5.12).
    pub recursive_read_only_mounts: bool,
    /// User namespaces with id-mapped mounts (Linux 5.19 for the layers of overlayfs), and not switched off.
    pub user_namespaces: bool,
}

impl HostFacts {
    /// Looks. What cannot be read counts as absent. Reads /proc and /sys.
    pub fn detect() -> Self {
        let kernel = kernel_version();
        let max_user_namespaces = number("/proc/sys/user/max_user_namespaces").unwrap_or(0);
        Self {
            bounding: bounding_set(&read("/proc/self/status")).unwrap_or(CapSet::EMPTY),
            last_cap: number("/proc/sys/kernel/cap_last_cap")
                .and_then(|cap| u8::try_from(cap).ok())
                .unwrap_or(40),
            kernel,
            // A group of v2: v1 has a tmpfs there.
            unified_cgroups: fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false),
            apparmor: read("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            apparmor_default: None,
            selinux: Contexts::detect(),
            groups: groups(&read("/proc/self/gid_map")),
            writable_sysctls: rustix::fs::statvfs("/proc/sys")
                .is_ok_and(|facts| !facts.f_flag.contains(StatVfsMountFlags::RDONLY)),
            features: Features {
                recursive_read_only_mounts: kernel >= (5, 12),
                user_namespaces: kernel >= (5, 19) && max_user_namespaces > 0,
            },
        }
    }
}

/// Major and minor version of the running kernel; 0.0 if it does not say.
pub fn kernel_version() -> (u32, u32) {
    parse_release(&read("/proc/sys/kernel/osrelease")).unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// Of a gid_map (user_namespaces(7)): the length of the range that begins with 0.
fn groups(map: &str) -> u32 {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace();
        (numbers.next()? == "0").then(|| numbers.nth(1)?.parse().ok()).flatten()
    };
    map.lines().find_map(line).unwrap_or(0)
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn bounding_set(status: &str) -> Option<CapSet> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok().map(CapSet::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_masks() {
        assert_eq!(parse_release("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(parse_release("5.15.0-generic"), Some((5, 15)));
        assert_eq!(parse_release(""), None);
        let status = "Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\n";
        assert_eq!(bounding_set(status), Some(CapSet::from_bits(0x1ff_feff_ffff)));
        assert_eq!(groups("         0          0 4294967295\n"), u32::MAX);
        assert_eq!(groups("      1000     100000      65536\n         0       1000          1\n"), 1);
        assert_eq!(groups(""), 0);
    }

    #[test]
    fn this_machine() {
        let host = HostFacts::detect();
        assert!(host.kernel >= (5, 0) && host.last_cap >= 36, "{host:?}");
        assert!(!host.bounding.is_empty());
    }
}
