//! Whether others make and remove pods on this machine while the tests run.

use super::Facts;
use crate::{
    place,
    process::{self, Stat},
};

/// Programs that make cgroups, mounts, links and namespaces of their own, by the 15 bytes that the kernel keeps of a
/// name. One that is there is taken to be at work: a kubelet may be quiet for the moment in which one looks.
const RUNTIMES: &[&str] = &[
    "buildkitd",
    "conmon",
    "conmonrs",
    "containerd",
    "containerd-shim",
    "cri-dockerd",
    "crio",
    "crun",
    "dockerd",
    "holdfast",
    "holdfast-pod",
    "holdfast-shim",
    "incusd",
    "k3s-agent",
    "k3s-server",
    "kubelet",
    "libvirtd",
    "lxc-start",
    "lxd",
    "nomad",
    "podman",
    "rke2",
    "runc",
    "systemd-nspawn",
    "youki",
];

/// Others at work on this machine.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Neighbours {
    /// To be found out.
    #[default]
    Unknown,
    /// Nobody, whatever is seen.
    Nobody,
    /// Somebody, whatever is seen.
    Somebody,
}

impl Neighbours {
    /// Words for who is at work, if anybody is. `at_first` and `now` are what was new elsewhere, at first and now, and
    /// the test had ended before the first.
    pub(super) fn at_work(self, at_first: &Facts, now: &Facts) -> Option<String> {
        match self {
            Self::Nobody => return None,
            Self::Somebody => return Some("others work on this machine".to_owned()),
            Self::Unknown => {}
        }
        if place::crowded() {
            return Some("HOLDFAST_E2E_CROWDED says that others work on this machine".to_owned());
        }
        appeared(at_first, now).or_else(|| {
            // The runtime of that endpoint is the one that is tested.
            if place::endpoint().is_some() { None } else { runtime(&process::strangers()) }
        })
    }
}

fn appeared(at_first: &Facts, now: &Facts) -> Option<String> {
    let fact = now.difference(at_first).next()?;
    Some(format!("something made {fact} after the test had ended"))
}

fn runtime(strangers: &[Stat]) -> Option<String> {
    let is_runtime = |process: &&Stat| process.state != 'Z' && RUNTIMES.contains(&process.name.as_str());
    let process = strangers.iter().find(is_runtime)?;
    Some(format!("{} works on this machine (pid {})", process.name, process.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(names: &[&str]) -> Facts {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_comes_after_the_end_is_the_work_of_others() {
        let at_first = facts(&["cgroup /a", "cgroup /b"]);
        assert_eq!(appeared(&at_first, &at_first), None);
        // The kernel is slow to remove what was ours: that shows nothing.
        assert_eq!(appeared(&at_first, &facts(&["cgroup /b"])), None);
        let who = appeared(&at_first, &facts(&["cgroup /b", "cgroup /c"])).unwrap_or_default();
        assert!(who.contains("cgroup /c"), "{who}");
    }

    #[test]
    fn a_runtime_is_known_by_its_name() {
        let process = |name: &str, state| Stat { pid: 4242, parent: 1, state, name: name.to_owned() };
        for name in RUNTIMES {
            assert!(name.len() < 16, "the kernel would cut {name}");
            assert!(
                runtime(&[process("sh", 'S'), process(name, 'S')]).is_some_and(|who| who.contains("4242"))
            );
            assert_eq!(runtime(&[process(name, 'Z')]), None);
        }
        assert_eq!(runtime(&[process("sshd", 'S'), process("holdfast-x", 'S')]), None);
    }

    #[test]
    fn what_was_said_needs_no_look() {
        let (none, some) = (facts(&[]), facts(&["cgroup /a"]));
        assert_eq!(Neighbours::Nobody.at_work(&none, &some), None);
        assert!(Neighbours::Somebody.at_work(&some, &some).is_some());
    }
}
