//! Sysctls of a pod: what a request may set, and what pods have that name nothing else.

use holdfast_model::{Map, PodSandboxConfig};
use holdfast_pod::sysctl::{Sysctl, SysctlNamespace, SysctlRefusal};

use crate::error::{SpecError, invalid};

const UNPRIVILEGED_PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
const PING_GROUP_RANGE: &str = "net.ipv4.ping_group_range";
/// The highest group that the kernel takes in a range (ping(7) of the kernel's ip-sysctl document).
const LAST_PING_GROUP: u32 = i32::MAX as u32;

/// Checks names and values. Whatever is not known to belong to a namespace would change the host.
pub fn check(sysctls: &Map, own_network: bool, own_ipc: bool) -> Result<(), SpecError> {
    sysctls.iter().try_for_each(|(name, value)| check_one(name, value, own_network, own_ipc))
}

fn check_one(name: &str, value: &str, own_network: bool, own_ipc: bool) -> Result<(), SpecError> {
    let field = format!("linux.sysctls[{name:?}]");
    let sysctl = Sysctl::parse(name.as_bytes()).map_err(|refusal| match refusal {
        SysctlRefusal::Malformed => invalid(&field, refusal.text()),
        SysctlRefusal::NotNamespaced => invalid(&field, format!("{}: set it on the node", refusal.text())),
    })?;
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(invalid(field, "the value holds a control character: take it out"));
    }
    let (own, namespace) = match sysctl.namespace {
        SysctlNamespace::Net => (own_network, "network"),
        SysctlNamespace::Ipc => (own_ipc, "IPC"),
    };
    if own {
        Ok(())
    } else {
        Err(invalid(field, format!("the pod is on the host's {namespace} namespace: set it on the node")))
    }
}

/// Sysctls that pods with a network of their own have unless their request names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Ports below 1024 are for everybody: the network is the pod's own.
    pub unprivileged_ports: bool,
    /// ICMP echo sockets are for everybody.
    pub unprivileged_icmp: bool,
    /// Number of group IDs that exist from 0 on, as we see them.
    pub groups: u32,
}

/// The sysctls that are written for a pod: the request's, and the defaults that it does not name.
pub fn with_defaults(pod: &PodSandboxConfig, own_network: bool, defaults: Defaults) -> Map {
    let mut sysctls = pod.sysctls.clone();
    if !own_network {
        return sysctls;
    }
    let mut add = |name: &str, value: String| {
        let path =
            |name: &str| Sysctl::parse(name.as_bytes()).map(|sysctl| sysctl.path().collect::<Vec<u8>>());
        // It may be named with slashes.
        if !sysctls.keys().any(|known| path(known) == path(name)) {
            sysctls.insert(name.to_owned(), value);
        }
    };
    if defaults.unprivileged_ports {
        add(UNPRIVILEGED_PORT_START, "0".to_owned());
    }
    if defaults.unprivileged_icmp {
        // The kernel refuses groups that are not mapped.
        let user = pod.security.namespaces.pod_user_namespace();
        let groups = user.map_or(defaults.groups, |user| user.gids.first().map_or(0, |map| map.length));
        if let Some(last) = groups.checked_sub(1) {
            add(PING_GROUP_RANGE, format!("0 {}", last.min(LAST_PING_GROUP)));
        }
    }
    sysctls
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::namespaces::tests::{pod_with, user_of};
    use holdfast_model::{NamespaceMode, NamespaceOptions};

    fn one(name: &str, value: &str, network: bool, ipc: bool) -> Result<(), SpecError> {
        check(&Map::from([(name.to_owned(), value.to_owned())]), network, ipc)
    }

    #[test]
    fn namespaced_ones_pass() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.shmmax",
            "kernel.msgmni",
            "kernel/sem",
            "fs.mqueue.msg_max",
            "kernel.shm_rmid_forced",
        ] {
            assert!(one(name, "1", true, true).is_ok(), "{name}");
        }
        assert!(one("net.ipv4.ip_local_port_range", "1024\t65000", true, true).is_ok());
    }

    #[test]
    fn what_would_change_the_host_is_refused() {
        for (name, value, network, ipc) in [
            ("net.ipv4.ip_forward", "1", false, true),
            ("kernel.shmmax", "1", true, false),
            ("fs.mqueue.msg_max", "1", true, false),
            ("kernel.core_pattern", "|/x", true, true),
            ("kernel.hostname", "x", true, true),
            ("vm.swappiness", "1", true, true),
            ("fs.file-max", "1", true, true),
            ("netx.ipv4", "1", true, true),
            ("", "1", true, true),
            ("net", "1", true, true),
            ("net..x", "1", true, true),
            ("net/../kernel/core_pattern", "1", true, true),
            ("net.ipv4/../../kernel", "1", true, true),
            ("/proc/sys/net/x", "1", true, true),
            ("net.x\n", "1", true, true),
            ("net.ipv4.x=1", "1", true, true),
            ("net.ipv4.x=1\0", "1", true, true),
            ("net.ipv4.ip_forward", "1\n0", true, true),
        ] {
            assert!(one(name, value, network, ipc).is_err(), "{name}");
        }
        let error =
            one("kernel.core_pattern", "|/x", true, true).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("kernel.core_pattern"), "{error}");
    }

    #[test]
    fn defaults_that_are_not_named() {
        const ALL: Defaults =
            Defaults { unprivileged_ports: true, unprivileged_icmp: true, groups: u32::MAX };
        let pod = |sysctls: &[(&str, &str)], groups: u32| {
            let user = user_of(NamespaceMode::Pod, &[(0, 65536, groups)], &[(0, 65536, groups)]);
            let user = Some(user).filter(|_| groups > 0);
            let mut pod = pod_with(NamespaceOptions { user, ..NamespaceOptions::default() });
            pod.sysctls =
                sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            pod
        };
        let text = |map: &Map| {
            map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
        };
        let (ports, icmp) = ("net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 ");
        for (pod, defaults, expected) in [
            (pod(&[], 0), ALL, format!("{ports}; {icmp}2147483647")),
            (pod(&[], 0), Defaults { unprivileged_icmp: false, ..ALL }, ports.to_owned()),
            (
                pod(&[], 0),
                Defaults { unprivileged_ports: false, groups: 65536, ..ALL },
                format!("{icmp}65535"),
            ),
            (pod(&[], 0), Defaults { groups: 0, ..ALL }, ports.to_owned()),
            (pod(&[], 1000), ALL, format!("{ports}; {icmp}999")),
            (
                pod(&[("net/ipv4/ip_unprivileged_port_start", "9"), ("net.ipv4.ping_group_range", "1 0")], 0),
                ALL,
                "net.ipv4.ping_group_range=1 0; net/ipv4/ip_unprivileged_port_start=9".to_owned(),
            ),
        ] {
            assert_eq!(text(&with_defaults(&pod, true, defaults)), expected);
            assert_eq!(with_defaults(&pod, false, defaults), pod.sysctls);
        }
    }
}
