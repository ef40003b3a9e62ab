//! Which sysctls a pod may set: those that belong to a namespace of its own.

use holdfast_model::Map;

use crate::error::{SpecError, invalid};

/// Sysctls of an IPC namespace (ipc_namespaces(7)); all of `fs.mqueue.` come on top.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks names and values. Whatever is not known to belong to a namespace would change the host.
pub fn check(sysctls: &Map, own_network: bool, own_ipc: bool) -> Result<(), SpecError> {
    sysctls.iter().try_for_each(|(name, value)| check_one(name, value, own_network, own_ipc))
}

fn check_one(name: &str, value: &str, own_network: bool, own_ipc: bool) -> Result<(), SpecError> {
    let field = format!("linux.sysctls[{name:?}]");
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let separators = name.split(['.', '/']).any(str::is_empty);
    if separators || !name.chars().all(legal) {
        return Err(invalid(field, "is not the name of a sysctl: write it like net.ipv4.ip_forward"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(invalid(field, "the value holds a control character: take it out"));
    }
    // Either separator: `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` are one.
    let first_is_slash = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let dotted = if first_is_slash { name.replace('/', ".") } else { name.to_owned() };
    let (own, namespace) = if dotted.starts_with("net.") {
        (own_network, "network")
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        (own_ipc, "IPC")
    } else {
        return Err(invalid(field, "does not belong to a namespace of the pod: set it on the node"));
    };
    if own {
        Ok(())
    } else {
        Err(invalid(field, format!("the pod is on the host's {namespace} namespace: set it on the node")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str, network: bool, ipc: bool) -> Result<(), SpecError> {
        check(&Map::from([(name.to_owned(), value.to_owned())]), network, ipc)
    }

    #[test]
    fn namespaced_ones_pass() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.shmmax",
            "kernel/sem",
            "fs.mqueue.msg_max",
            "kernel.shm_rmid_forced",
        ] {
            assert!(one(name, "1", true, true).is_ok(), "{name}");
        }
        assert!(one("net.ipv4.ip_local_port_range", "1024\t65000", true, true).is_ok());
        assert!(one("kernel.sem", "250 32000 32 128", false, true).is_ok());
    }

    #[test]
    fn the_hosts_are_refused() {
        for (name, value, network, ipc) in [
            ("kernel.core_pattern", "|/x", true, true),
            ("kernel.hostname", "x", true, true),
            ("vm.swappiness", "1", true, true),
            ("fs.file-max", "1", true, true),
            ("net.ipv4.ip_forward", "1", false, true),
            ("kernel.shmmax", "1", true, false),
            ("fs.mqueue.msg_max", "1", true, false),
            ("net", "1", true, true),
            ("network.x", "1", true, true),
            ("", "1", true, true),
            ("net..x", "1", true, true),
            ("net/../kernel/core_pattern", "1", true, true),
            ("net.ipv4/../../kernel", "1", true, true),
            ("/proc/sys/net/x", "1", true, true),
            ("net.x\n", "1", true, true),
            ("net.ipv4.x=1\0", "1", true, true),
            ("net.ipv4.ip_forward", "1\n0", true, true),
        ] {
            assert!(one(name, value, network, ipc).is_err(), "{name}");
        }
        let error =
            one("kernel.core_pattern", "|/x", true, true).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("kernel.core_pattern"), "{error}");
    }
}
