//! Our default AppArmor profile, as text for apparmor_parser(8) (apparmor.d(5)).
//!
//! A second wall behind namespaces, masks and seccomp: a container that has found a way to write to the host's procfs or
//! sysfs, or to mount one, finds it closed here. It stands by itself, without the includes of /etc/apparmor.d, which not
//! every node has.

use std::fmt::Write as _;

/// Name of the profile.
pub const DEFAULT_PROFILE: &str = "holdfast-default";

/// Who may signal a container from outside: what no profile confines, and the OCI runtimes to which AppArmor 4 gives
/// profiles of their own names (without them an exec or a stop by one of these is refused).
const OUTSIDE: &[&str] = &["unconfined", "runc", "crun"];

/// What AppArmor 4 mediates as well. seccomp and capabilities say who may have them, as before.
const ALLOWED_SINCE_4: &[&str] = &["userns", "mqueue", "io_uring"];

/// What may not be done, whatever else is allowed: `deny` wins in AppArmor.
const DENIED: &[&str] = &[
    "mount",
    "remount",
    "pivot_root",
    // The host's own controls in procfs. Names below a process's directory begin with a digit, and stay.
    "/proc/* w",
    "/proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wkl",
    "/proc/sys/{abi,debug,dev,fs,sunrpc,user,vm}/** wkl",
    // Of the kernel's own, a container may set what belongs to its ipc namespace: sem and shm*.
    "/proc/sys/kernel/[^s]** wkl",
    "/proc/sys/kernel/s[^eh]** wkl",
    "/proc/{kcore,kmem,mem,sysrq-trigger} rwkl",
    // All of sysfs but the cgroups.
    "/sys/[^f]** wkl",
    "/sys/f[^s]** wkl",
    "/sys/fs/[^c]** wkl",
    "/sys/fs/c[^g]** wkl",
    "/sys/firmware/** rwkl",
    "/sys/devices/virtual/powercap/** rwkl",
    "/sys/kernel/security/** rwkl",
];

/// The profile's text. `agent` is the profile that we ourselves are confined by, if there is one: its signals have to
/// arrive. `since_4` adds the rules that only apparmor_parser 4 knows: without them a node of that version refuses what
/// they are about.
pub fn default_profile(agent: Option<&str>, since_4: bool) -> String {
    let mut text = format!("profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{\n");
    let newer = ALLOWED_SINCE_4.iter().copied().filter(|_| since_4);
    for rule in ["network", "capability", "file", "umount"].into_iter().chain(newer) {
        let _ = writeln!(text, "  {rule},");
    }
    for peer in OUTSIDE.iter().copied().chain(agent) {
        let _ = writeln!(text, "  signal (receive) peer=\"{peer}\",");
    }
    let _ = writeln!(text, "  signal (send, receive) peer=\"{DEFAULT_PROFILE}\",");
    let _ = writeln!(text, "  ptrace (trace, read, tracedby, readby) peer=\"{DEFAULT_PROFILE}\",");
    for denied in DENIED {
        let _ = writeln!(text, "  deny {denied},");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_ends_as_the_language_wants() {
        let text = default_profile(Some("node-agent"), false);
        let body: Vec<&str> = text.lines().collect();
        assert_eq!(
            (body[0], body[body.len() - 1]),
            ("profile holdfast-default flags=(attach_disconnected,mediate_deleted) {", "}")
        );
        assert!(body[1..body.len() - 1].iter().all(|line| line.starts_with("  ") && line.ends_with(',')));
        for peer in ["unconfined", "runc", "crun", "node-agent"] {
            assert!(text.contains(&format!("signal (receive) peer=\"{peer}\",")), "{peer}");
        }
        assert!(!default_profile(None, true).contains("node-agent"));
        assert!(default_profile(None, true).contains("  userns,\n") && !text.contains("userns"));
        assert_eq!(body.iter().filter(|line| line.contains(" deny ")).count(), DENIED.len());
    }
}
