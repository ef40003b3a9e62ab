//! What a machine must have before anything begins, checked at once.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// A thing that we cannot install ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A Linux kernel with what pods need.
    Linux,
    /// uid 0.
    Root,
    /// cargo and rustc.
    Rust,
    /// Go, which builds the real Kubernetes clients.
    Go,
}

/// Requirements for building the programs.
pub const BUILD: &[Need] = &[Need::Linux, Need::Rust];
/// What a demo needs.
pub const DEMO: &[Need] = &[Need::Linux, Need::Root, Need::Rust];
/// What the tests need.
pub const TESTS: &[Need] = &[Need::Linux, Need::Root, Need::Rust, Need::Go];

/// Fails with one line for each thing that is missing: needs, and Debian packages where there is no apt.
pub fn check(needs: &[Need], missing_packages: &[&str]) -> Result<()> {
    let mut missing: Vec<String> = needs.iter().flat_map(|need| complaints(*need)).collect();
    if !missing_packages.is_empty() && find("apt-get").is_none() {
        missing.push(format!(
            "what Debian calls {}: there is no apt-get to install it",
            missing_packages.join(", ")
        ));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks\n  - {}", missing.join("\n  - "))
}

/// By how much an emulated machine is slower, from the environment: limits of time are multiplied by it.
pub fn slowness() -> u32 {
    env::var("HOLDFAST_E2E_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Where `program` is, if it is in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin"), PathBuf::from("/usr/local/go/bin")];
    env::split_paths(&path).chain(sbin).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn complaints(need: Need) -> Vec<String> {
    match need {
        Need::Linux => linux(),
        Need::Root if !is_root() => vec!["root: run this command as uid 0".to_owned()],
        Need::Rust if find("rustc").is_none() => vec!["Rust 1.95 or later: https://rustup.rs".to_owned()],
        Need::Go if find("go").is_none() => {
            vec!["Go 1.26 or later, which builds the real Kubernetes clients: https://go.dev/dl".to_owned()]
        }
        _ => Vec::new(),
    }
}

fn linux() -> Vec<String> {
    if !cfg!(target_os = "linux") {
        return vec!["Linux".to_owned()];
    }
    let mut missing = Vec::new();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module that is there but not loaded yet is loaded by the first mount.
    let loadable = !modules("overlay").is_empty();
    if !filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") && !loadable {
        missing.push("overlayfs: a kernel with CONFIG_OVERLAY_FS".to_owned());
    }
    for kind in ["net", "ipc", "uts", "pid", "mnt", "user", "cgroup"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            missing.push(format!("{kind} namespaces: a kernel that has them"));
        }
    }
    missing
}

/// Lines of modules.dep that name a module.
fn modules(name: &str) -> Vec<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = fs::read_to_string(format!("/lib/modules/{}/modules.dep", release.trim())).unwrap_or_default();
    list.lines().filter(|line| line.contains(&format!("/{name}.ko"))).map(str::to_owned).collect()
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
        assert!(check(&[], &[]).is_ok());
    }
}
