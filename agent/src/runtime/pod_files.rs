//! /etc/hosts, /etc/resolv.conf and /etc/hostname of a pod.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use holdfast_model::{DnsConfig, PodSandboxConfig};
use holdfast_spec::PodFiles;
use holdfast_sys::failpoint;

use super::Error;

/// Most of the host's file that is copied, in bytes.
const COPY_LIMIT: u64 = 1 << 20;

/// Where the files of the pod in `dir` lie.
pub fn paths(dir: &Path) -> PodFiles {
    PodFiles {
        hosts: dir.join("hosts"),
        resolv_conf: dir.join("resolv.conf"),
        hostname: dir.join("hostname"),
    }
}

/// Writes them. A pod on the host's network gets a copy of the host's /etc/hosts. Blocking.
pub fn write(
    dir: &Path,
    config: &PodSandboxConfig,
    hostname: &str,
    host_network: bool,
    ips: &[IpAddr],
) -> Result<(), Error> {
    let files = paths(dir);
    let hosts = if host_network { host_copy("/etc/hosts") } else { hosts_text(hostname, ips) };
    put(&files.hosts, &hosts)?;
    put(&files.hostname, &format!("{hostname}\n"))?;
    let resolv = if config.dns.is_empty() { host_copy("/etc/resolv.conf") } else { resolv_text(&config.dns) };
    put(&files.resolv_conf, &resolv)
}

fn put(path: &PathBuf, text: &str) -> Result<(), Error> {
    let written = failpoint::at("runtime.pod.file.write").and_then(|()| fs::write(path, text));
    written.map_err(|source| Error::Io { operation: "write", path: path.clone(), source })
}

/// A host without the file is odd, but a pod starts on it all the same.
fn host_copy(path: &str) -> String {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, COPY_LIMIT), &mut text)?;
        Ok(text)
    };
    read().unwrap_or_default()
}

fn hosts_text(hostname: &str, ips: &[IpAddr]) -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\t\
         ip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        for ip in ips {
            let _ = writeln!(text, "{ip}\t{hostname}");
        }
    }
    text
}

fn resolv_text(dns: &DnsConfig) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_the_form_of_resolv_conf_5() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into(), "fd00::a".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_text(&dns),
            "search default.svc.cluster.local svc\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
        );
    }

    #[test]
    fn hosts_names_every_address_of_the_pod() {
        let text = hosts_text("web", &["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()]);
        assert!(text.contains("10.1.2.3\tweb\n") && text.contains("fd00::3\tweb\n"), "{text}");
    }
}
