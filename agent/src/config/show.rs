//! The configuration as commented TOML, for `holdfast config`.

use std::fmt::Write;

use toml::{Table, Value};

use super::{Config, handlers};

/// A key: its table, its name, what it means, and an example for keys that have no value by default.
struct Key {
    table: &'static str,
    name: &'static str,
    comment: &'static str,
    example: &'static str,
}

const fn key(table: &'static str, name: &'static str, comment: &'static str) -> Key {
    Key { table, name, comment, example: "" }
}

const fn unset(table: &'static str, name: &'static str, comment: &'static str, example: &'static str) -> Key {
    Key { table, name, comment, example }
}

const HEAD: &str = "\
# Holdfast's configuration. Every key has a default that works; what is printed here is in force.
# Files of conf.d beside this one (*.toml, by name) are merged on top.
";

const KEYS: [Key; 32] = [
    key("", "root", "Pods, containers and images. Survives a reboot. One agent at a time uses it."),
    key("", "state", "Sockets, pins and process facts. Dies with the boot. One agent at a time uses it."),
    key("", "listen", "The socket that kubelet and crictl connect to."),
    key("", "listen_mode", "Mode of the socket. Its directory is made with mode 0700 if it is not there."),
    unset("", "listen_group", "Group of the socket. Not set: root's own.", "\"holdfast\""),
    key(
        "",
        "cgroup_driver",
        "\"systemd\", \"cgroupfs\", or \"auto\": systemd where it runs on cgroup v2.\nMust be the kubelet's; the kubelet asks for it.",
    ),
    unset(
        "",
        "default_cgroup_parent",
        "Parent of pods that name none. Not set: /holdfast, or holdfast.slice with the systemd driver.",
        "\"/holdfast\"",
    ),
    key(
        "",
        "log_level",
        "error, warn, info, debug or trace. --log-level wins over it. The log goes to stderr.",
    ),
    key("", "log_format", "\"text\" or \"json\"."),
    unset(
        "",
        "pod_program",
        "The holder's program. Not set: beside holdfast itself, in ../libexec/holdfast, in /usr/libexec/holdfast.",
        "\"/usr/libexec/holdfast/holdfast-pod\"",
    ),
    unset(
        "",
        "shim_program",
        "The shim's program. Not set: beside holdfast itself, in ../libexec/holdfast, in /usr/libexec/holdfast.",
        "\"/usr/libexec/holdfast/holdfast-shim\"",
    ),
    key(
        "image",
        "registry_config_dir",
        "Directory of <host[:port]>/hosts.toml, as containerd reads them.\nA registry on loopback without one speaks HTTP.",
    ),
    key("image", "max_parallel_downloads", "Layers downloaded at once, over all pulls."),
    key("image", "progress_timeout_s", "A registry that sends nothing for so many seconds is given up."),
    unset(
        "network",
        "mode",
        "\"cni\": the plugins of network.cni; the node is NotReady until there is a configuration.\n\
         \"embedded\": the bridge of network.embedded, whatever CNI configuration there is.\n\
         \"auto\": embedded until there was a CNI configuration, CNI from then on.\n\
         Not set: cni for `holdfast serve`, embedded for `holdfast run` where no agent serves.",
        "\"cni\"",
    ),
    key("network.cni", "conf_dir", "CNI configuration lists. The first one by name counts."),
    key("network.cni", "bin_dirs", "Directories of the CNI plugins."),
    key("network.embedded", "bridge", "Name of the bridge and of the nftables table, at most 15 letters."),
    key(
        "network.embedded",
        "subnets",
        "Subnets of the pods, at most one of each family, the primary one first.\nA collision with an address or a route of the host is refused by name.",
    ),
    unset(
        "network.embedded",
        "mtu",
        "MTU in bytes. Not set: that of the interface with the default route.",
        "1500",
    ),
    key(
        "runtime",
        "default_ulimits",
        "Resource limits of containers, name=soft:hard or name=both; a number or \"unlimited\".",
    ),
    unset(
        "runtime",
        "pids_limit",
        "Most processes and threads of a container. Not set: as many as its pod may have.",
        "4096",
    ),
    key(
        "runtime",
        "enable_unprivileged_ports",
        "net.ipv4.ip_unprivileged_port_start=0 in pods with a network of their own, unless they set it:\nany user may listen on ports below 1024.",
    ),
    key(
        "runtime",
        "enable_unprivileged_icmp",
        "net.ipv4.ping_group_range of all groups in pods with a network of their own, unless they set it:\nany user may ping.",
    ),
    key(
        "runtime",
        "device_ownership_from_security_context",
        "Device nodes belong to runAsUser and runAsGroup of the container, if it says them, in the place of the host's\nowner: devices of plugins for users other than root.",
    ),
    key(
        "runtime",
        "seccomp_profile_root",
        "Where the seccomp profiles of type Localhost lie: the kubelet's directory.",
    ),
    key(
        "runtime",
        "hooks_dirs",
        "Directories of OCI hooks, *.json as oci-hooks(5) of Podman and CRI-O has them, by name; a later directory's\nfile takes the place of an earlier one's. Such as /usr/share/containers/oci/hooks.d.",
    ),
    key(
        "cdi",
        "spec_dirs",
        "Folders of the specs of CDI devices (*.json, *.yaml). What a later folder says of a device wins.",
    ),
    key(
        "streaming",
        "listen",
        "Where exec, attach and port-forward sessions connect to. The kubelet does so from this node;\nwhoever reaches it needs a URL with a token of its own. Port 0 takes a free one.",
    ),
    unset(
        "streaming",
        "advertise",
        "Host of the URLs, for clients that reach the node by another name. Not set: the address above.",
        "\"node1.example\"",
    ),
    unset(
        "streaming",
        "tls_cert",
        "PEM file of the server's certificate. With it and its key the URLs are https.",
        "\"/etc/holdfast/streaming.crt\"",
    ),
    unset(
        "streaming",
        "tls_key",
        "PEM file of the certificate's private key.",
        "\"/etc/holdfast/streaming.key\"",
    ),
];

impl Config {
    /// The configuration as TOML, with what each key means above it. Reads back as the same configuration.
    pub fn to_commented_toml(&self) -> String {
        // Strings, numbers and lists of them always have a form in TOML.
        let table = Table::try_from(self).unwrap_or_default();
        let (mut text, mut current) = (HEAD.to_owned(), "");
        for key in &KEYS {
            text.push('\n');
            if key.table != current {
                current = key.table;
                let _ = writeln!(text, "[{current}]");
            }
            for line in key.comment.lines() {
                let _ = writeln!(text, "# {line}");
            }
            let _ = match lookup(&table, key) {
                Some(value) => writeln!(text, "{} = {value}", key.name),
                None => writeln!(text, "#{} = {}", key.name, key.example),
            };
        }
        text.push_str(&handlers::show(&self.runtime.handlers));
        text
    }
}

fn lookup<'a>(table: &'a Table, key: &Key) -> Option<&'a Value> {
    key.table
        .split('.')
        .filter(|name| !name.is_empty())
        .try_fold(table, |table, name| table.get(name)?.as_table())?
        .get(key.name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::PosixRlimitType;

    use super::*;
    use crate::config::Ulimit;

    /// Every key has a value.
    fn full() -> Config {
        let mut config = Config {
            root: "/r".into(),
            listen_mode: 0o660,
            listen_group: Some("kube".into()),
            default_cgroup_parent: Some("/x".into()),
            pod_program: Some("/p".into()),
            shim_program: Some("/s".into()),
            ..Config::default()
        };
        config.network.mode = Some(holdfast_network::Mode::Auto);
        config.network.embedded.mtu = Some(9000);
        config.streaming.advertise = Some("node".into());
        config.streaming.tls_cert = Some("/c".into());
        config.streaming.tls_key = Some("/k".into());
        config.runtime.pids_limit = Some(9);
        config.runtime.enable_unprivileged_ports = false;
        config.runtime.enable_unprivileged_icmp = false;
        config.runtime.device_ownership_from_security_context = true;
        config.runtime.default_ulimits.push(Ulimit {
            resource: PosixRlimitType::RlimitCore,
            soft: 0,
            hard: u64::MAX,
        });
        config
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for config in [Config::default(), full()] {
            assert_eq!(toml::from_str::<Config>(&config.to_commented_toml()).unwrap(), config);
        }
    }

    #[test]
    fn the_examples_of_unset_keys_are_values_too() {
        let text = Config::default().to_commented_toml();
        let uncommented: String = text
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
            })
            .collect();
        let config: Config = toml::from_str(&uncommented).unwrap();
        assert_eq!(
            (config.listen_group.as_deref(), config.network.embedded.mtu),
            (Some("holdfast"), Some(1500))
        );
    }

    #[test]
    fn every_key_is_explained_and_every_explanation_has_a_key() {
        fn names(prefix: &str, table: &Table, into: &mut BTreeSet<String>) {
            for (name, value) in table {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                match value {
                    Value::Table(table) => names(&path, table, into),
                    _ => drop(into.insert(path)),
                }
            }
        }
        let mut known = BTreeSet::new();
        names("", &Table::try_from(full()).unwrap(), &mut known);
        let explained: BTreeSet<String> =
            KEYS.iter()
                .map(|key| {
                    if key.table.is_empty() { key.name.into() } else { format!("{}.{}", key.table, key.name) }
                })
                .collect();
        assert_eq!(known, explained);
    }

    #[test]
    fn the_file_that_we_ship_is_the_default() {
        let shipped = include_str!("../../../manifests/config.toml");
        assert_eq!(toml::from_str::<Config>(shipped).unwrap(), Config::default());
        assert_eq!(
            shipped,
            Config::default().to_commented_toml(),
            "write it anew with `holdfast config --default`"
        );
    }
}
