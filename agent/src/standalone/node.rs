//! What a run has to know of this machine.

use std::{fs, net::IpAddr, path::Path};

use holdfast_model::DnsConfig;

use crate::manifest::{NodeLimits, Pod};

/// This machine.
#[derive(Debug, Clone)]
pub struct Node {
    /// For limits.
    pub limits: NodeLimits,
    /// Sensors that would tell a container what others do.
    pub masked: Vec<String>,
}

impl Node {
    /// Looks. Blocking.
    pub fn look() -> Self {
        Self {
            limits: NodeLimits { memory_bytes: memory_bytes(), limits_swap: limits_swap() },
            masked: sensors(),
        }
    }
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// On cgroup v1 only with swap accounting, which is off by default there.
fn limits_swap() -> bool {
    let top = Path::new("/sys/fs/cgroup");
    top.join("cgroup.controllers").exists() || top.join("memory/memory.memsw.limit_in_bytes").exists()
}

/// Those that a kubelet hides (pkg/securitycontext/util.go).
fn sensors() -> Vec<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let sensor = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("cpu")?.to_owned();
        let is_cpu = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let path = entry.path().join("thermal_throttle");
        (is_cpu && path.exists()).then(|| path.display().to_string())
    };
    let mut sensors: Vec<_> = entries.filter_map(sensor).collect();
    sensors.sort();
    sensors
}

/// Name resolution of a pod: the node's and what the manifest adds. Blocking.
pub fn dns(pod: &Pod) -> DnsConfig {
    if pod.own_dns_only {
        return pod.dns.clone();
    }
    let read = |path: &str| resolv_conf(&fs::read_to_string(path).unwrap_or_default());
    let mut node = read("/etc/resolv.conf");
    // A stub of the host's own is not there in the pod's network; systemd-resolved says beside it what it asks.
    let is_local = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !pod.host_network && !node.servers.is_empty() && node.servers.iter().all(is_local) {
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.servers.is_empty() {
            node = real;
        }
    }
    merge(node, &pod.dns)
}

/// resolv.conf(5).
fn resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words =
            line.split(['#', ';']).next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // The last one counts.
            Some("search" | "domain") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// The pod's words come after the node's, and its options in their place (kubelet, network/dns/dns.go).
fn merge(node: DnsConfig, pod: &DnsConfig) -> DnsConfig {
    let append = |mut all: Vec<String>, more: &[String], most: usize| {
        for word in more {
            if !all.contains(word) {
                all.push(word.clone());
            }
        }
        all.truncate(most);
        all
    };
    let name = |option: &String| option.split(':').next().unwrap_or_default().to_owned();
    let mut options = node.options;
    options.retain(|option| !pod.options.iter().any(|own| name(own) == name(option)));
    DnsConfig {
        servers: append(node.servers, &pod.servers, 3),
        searches: append(node.searches, &pod.searches, 32),
        options: append(options, &pod.options, usize::MAX),
    }
}

/// The pod's /etc/hosts with aliases. On the host's network it begins as the host's.
pub fn hosts(pod: &Pod, hostname: &str, ips: &[String]) -> String {
    let mut text = if pod.host_network {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned()
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let own = ips.iter().map(|ip| format!("{ip}\t{hostname}\n"));
    let aliases =
        pod.host_aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    text.extend(own.chain(aliases));
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manifest;

    fn words(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn this_machine() {
        let node = Node::look();
        assert!(node.limits.memory_bytes > 16 << 20, "{node:?}");
    }

    #[test]
    fn resolvers_files() {
        let text = "# x\nnameserver 10.0.0.1 # y\n; z\nsearch a b\nsearch c.test\noptions ndots:2 edns0\nnameserver\n";
        let dns = resolv_conf(text);
        assert_eq!(dns.servers, ["10.0.0.1"]);
        assert_eq!(dns.searches, ["c.test"]);
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn what_a_manifest_adds() {
        let node = DnsConfig {
            servers: words(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            searches: words(&["a"]),
            options: words(&["ndots:2", "edns0"]),
        };
        let pod = DnsConfig {
            servers: words(&["10.0.0.1", "10.0.0.9"]),
            searches: words(&["b", "a"]),
            options: words(&["ndots:5"]),
        };
        let merged = merge(node, &pod);
        assert_eq!(merged.servers, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(merged.searches, ["a", "b"]);
        assert_eq!(merged.options, ["edns0", "ndots:5"]);
    }

    #[test]
    fn aliases_come_last() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: a, image: a}]\n  \
                    hostAliases: [{ip: 10.0.0.9, hostnames: [db, db.test]}]\n";
        let pod = manifest::read(text.as_bytes()).unwrap();
        let hosts = hosts(&pod, "p", &words(&["10.1.0.2", "fd00::2"]));
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(hosts.ends_with("\n10.1.0.2\tp\nfd00::2\tp\n10.0.0.9\tdb\tdb.test\n"), "{hosts}");
    }
}
