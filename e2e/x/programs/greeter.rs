//! The demo's container: says where it is, then ends.

use std::{fs, process};

fn main() {
    let host = read("/proc/sys/kernel/hostname");
    println!("Hello from the pod {host}!");
    println!("  pid          {}", process::id());
    println!("  user         {}", status("Uid:"));
    println!("  capabilities {}", status("CapEff:"));
    println!("  seccomp      {}", if status("Seccomp:") == "2" { "filter" } else { "off" });
    println!("  address      {}", addresses().join(", "));
    println!("  root         {}", root());
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The first word behind a key of /proc/self/status.
fn status(key: &str) -> String {
    let text = read("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().unwrap_or("?").to_owned()
}

/// IPv4 addresses of the pod, as the kernel's routing trie lists them.
fn addresses() -> Vec<String> {
    let trie = read("/proc/net/fib_trie");
    let lines: Vec<&str> = trie.lines().collect();
    let mut found: Vec<String> = lines
        .windows(2)
        .filter(|pair| pair[1].contains("/32 host LOCAL"))
        .filter_map(|pair| pair[0].split_whitespace().last())
        .filter(|address| !address.starts_with("127."))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

fn root() -> String {
    let mounts = read("/proc/self/mounts");
    let kind = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.nth(1) == Some("/")).then(|| words.next().unwrap_or("?"))
    });
    kind.unwrap_or("?").to_owned()
}
