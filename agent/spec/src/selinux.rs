//! SELinux labels: a container's process and its files.
//!
//! The node's policy names the contexts of containers in its lxc_contexts file (selinux(8), lxc_contexts(5)). What a
//! request says replaces parts of them. Without a level, all containers of a pod share one that is made from the pod's
//! id, so that they reach each other's files and no other pod's.

use std::{fs, path::Path};

use holdfast_model::{PodId, SelinuxOptions};

use crate::{
    error::{SpecError, invalid},
    text,
};

const FIELD: &str = "linux.security_context.selinux_options";
/// Categories of the usual policies: c0 to c1023.
const CATEGORIES: u32 = 1024;

/// The policy's contexts of containers, without their levels: `user:role:type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contexts {
    /// Of processes.
    pub process: [String; 3],
    /// Of files.
    pub file: [String; 3],
}

impl Default for Contexts {
    fn default() -> Self {
        let words = |kind: [&str; 3]| kind.map(str::to_owned);
        Self {
            process: words(["system_u", "system_r", "container_t"]),
            file: words(["system_u", "object_r", "container_file_t"]),
        }
    }
}

impl Contexts {
    /// Those of this node, if it has SELinux. Reads /sys and /etc/selinux.
    pub fn detect() -> Option<Self> {
        if !Path::new("/sys/fs/selinux/enforce").exists() {
            return None;
        }
        let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
        let policy = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
        let path = format!("/etc/selinux/{}/contexts/lxc_contexts", policy.unwrap_or("targeted").trim());
        Some(Self::parse(&fs::read_to_string(path).unwrap_or_default()))
    }

    /// `key = "user:role:type:level"`, a line each. What is not there, or does not read, is the usual.
    fn parse(text: &str) -> Self {
        let mut contexts = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let parts: Vec<&str> = value.trim().trim_matches('"').splitn(4, ':').collect();
            if let [user, role, kind, ..] = parts[..] {
                let parts = [user, role, kind].map(str::to_owned);
                match key.trim() {
                    "process" => contexts.process = parts,
                    "file" => contexts.file = parts,
                    _ => {}
                }
            }
        }
        contexts
    }
}

/// A container's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes; none for a privileged container that asks for nothing.
    pub process: Option<String>,
    /// Of the file systems that are made for it, and of volumes that are to be relabelled.
    pub mount: Option<String>,
}

/// Labels of a container, or of a pod's own file systems. `level` is what they have where nothing is said.
///
/// Without SELinux there are none, whatever is asked for: charts of network plugins name `spc_t` for every node.
///
/// # Errors
/// Parts that hold what separates them.
pub fn labels(
    options: Option<&SelinuxOptions>,
    of_pod: Option<&SelinuxOptions>,
    level: &str,
    privileged: bool,
    contexts: Option<&Contexts>,
) -> Result<Labels, SpecError> {
    check(options)?;
    let Some(contexts) = contexts else { return Ok(Labels::default()) };
    let options = options.filter(|options| **options != SelinuxOptions::default());
    let asked = options.cloned().unwrap_or_default();
    let of_pod = of_pod.map(|options| options.level.clone()).filter(|level| !level.is_empty());
    let level = or(asked.level, || of_pod.unwrap_or_else(|| level.to_owned()));
    let [user, role, kind] = &contexts.process;
    let process =
        [or(asked.user, || user.clone()), or(asked.role, || role.clone()), or(asked.kind, || kind.clone())];
    let process = (options.is_some() || !privileged).then(|| format!("{}:{level}", process.join(":")));
    Ok(Labels { process, mount: Some(format!("{}:{level}", contexts.file.join(":"))) })
}

/// Checks options by themselves.
///
/// # Errors
/// As [`labels`].
pub fn check(options: Option<&SelinuxOptions>) -> Result<(), SpecError> {
    let Some(options) = options else { return Ok(()) };
    for (name, value) in [("user", &options.user), ("role", &options.role), ("type", &options.kind)] {
        text::plain(&format!("{FIELD}.{name}"), value)?;
        // The level is the last part and may hold colons itself.
        if value.contains(':') {
            return Err(invalid(format!("{FIELD}.{name}"), format!("{value:?} holds a colon: take it out")));
        }
    }
    text::plain(&format!("{FIELD}.level"), &options.level)
}

fn or(value: String, default: impl FnOnce() -> String) -> String {
    if value.is_empty() { default() } else { value }
}

/// All levels of two different categories, for a pod to take the first that is free: it begins where the id's random digits
/// say, so that few are tried.
pub fn levels(pod: &PodId) -> impl Iterator<Item = String> {
    const DISTANCES: u32 = CATEGORIES - 1;
    let digits = pod.as_str();
    let number = |range| u32::from_str_radix(digits.get(range).unwrap_or_default(), 16).unwrap_or(0);
    let start = number(0..8) % CATEGORIES * DISTANCES + number(8..16) % DISTANCES;
    // Each pair comes twice.
    (0..CATEGORIES * DISTANCES).map(move |step| {
        let at = (start + step) % (CATEGORIES * DISTANCES);
        let first = at / DISTANCES;
        let second = (first + 1 + at % DISTANCES) % CATEGORIES;
        format!("s0:c{},c{}", first.min(second), first.max(second))
    })
}

/// A level with its categories in order, to compare it with others.
pub fn normal(level: &str) -> String {
    let Some((sensitivity, categories)) = level.split_once(':') else { return level.to_owned() };
    let mut categories: Vec<&str> = categories.split(',').collect();
    categories.sort_by_key(|category| (category.len(), *category));
    format!("{sensitivity}:{}", categories.join(","))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pod(digits: &str) -> PodId {
        format!("{digits:0<64}").parse().unwrap()
    }

    fn of(options: &SelinuxOptions, privileged: bool) -> Labels {
        let contexts = Contexts::default();
        labels(Some(options), None, "s0:c5,c6", privileged, Some(&contexts)).unwrap()
    }

    #[test]
    fn a_request_replaces_parts_of_the_policys_context() {
        let options =
            SelinuxOptions { kind: "spc_t".into(), level: "s0:c1,c2".into(), ..SelinuxOptions::default() };
        let labels = of(&options, true);
        assert_eq!(labels.process.as_deref(), Some("system_u:system_r:spc_t:s0:c1,c2"));
        assert_eq!(labels.mount.as_deref(), Some("system_u:object_r:container_file_t:s0:c1,c2"));
        let none = SelinuxOptions::default();
        assert_eq!(of(&none, false).process.as_deref(), Some("system_u:system_r:container_t:s0:c5,c6"));
        let privileged = of(&none, true);
        assert_eq!(privileged.process, None);
        assert_eq!(privileged.mount.as_deref(), Some("system_u:object_r:container_file_t:s0:c5,c6"));
    }

    #[test]
    fn the_pods_level_is_shared_and_its_own() {
        let contexts = Contexts::default();
        let pod_options = SelinuxOptions { level: "s0:c7,c8".into(), ..SelinuxOptions::default() };
        let labels = labels(None, Some(&pod_options), "s0:c1,c2", false, Some(&contexts)).unwrap();
        assert!(labels.process.unwrap().ends_with(":s0:c7,c8"));
        for digits in ["ffffffffffffffff", "0123456789abcdef", "00000400000003fe", "000003ff"] {
            let level = levels(&pod(digits)).next().unwrap();
            let numbers: Vec<u32> =
                level.strip_prefix("s0:").unwrap().split(',').map(|c| c[1..].parse().unwrap()).collect();
            assert!(numbers[0] < numbers[1] && numbers[1] < CATEGORIES, "{level}");
        }
        assert_ne!(levels(&pod("00000001")).next(), levels(&pod("00000002")).next());
        assert_eq!(levels(&pod("00000005")).next().unwrap(), "s0:c5,c6");
    }

    #[test]
    fn a_pod_may_try_every_level() {
        let all: std::collections::HashSet<String> = levels(&pod("00000005")).collect();
        assert_eq!(all.len(), 1024 * 1023 / 2);
        assert_eq!(normal("s0:c20,c3"), "s0:c3,c20");
        assert_eq!(normal("s0"), "s0");
    }

    #[test]
    fn a_node_without_selinux_passes_options_over() {
        let options =
            SelinuxOptions { kind: "spc_t".into(), level: "s0".into(), ..SelinuxOptions::default() };
        for options in [&options, &SelinuxOptions::default()] {
            assert_eq!(labels(Some(options), None, "", false, None).unwrap(), Labels::default());
        }
        let bad = SelinuxOptions { kind: "a:b".into(), ..SelinuxOptions::default() };
        assert!(labels(Some(&bad), None, "", false, None).unwrap_err().to_string().contains("colon"));
    }

    #[test]
    fn the_policys_file_is_read_as_it_is() {
        let text = "process = \"system_u:system_r:lxc_t:s0\"\nfile = \"system_u:object_r:lxc_file_t:s0\"\n\
            content = \"system_u:object_r:virt_var_lib_t:s0\"\nbroken = x\n";
        let contexts = Contexts::parse(text);
        assert_eq!(contexts.process.join(":"), "system_u:system_r:lxc_t");
        assert_eq!(contexts.file.join(":"), "system_u:object_r:lxc_file_t");
        assert_eq!(Contexts::parse("nonsense"), Contexts::default());
    }
}
