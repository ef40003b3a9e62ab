//! What the oracle finds at the end, as objects instead of facts: a directory is one with all that is in it, and a cgroup is
//! one in however many hierarchies it lies.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use holdfast_e2e::oracle::Facts;

/// Names of objects by their class.
pub type Left = BTreeMap<String, BTreeSet<String>>;

/// Sorts facts into objects.
pub fn objects(facts: &Facts) -> Left {
    let mut left = Left::new();
    for (class, name) in facts.iter().filter_map(|fact| object(fact)) {
        left.entry(class).or_default().insert(name);
    }
    for names in left.values_mut() {
        keep_tops(names);
    }
    left
}

/// All of them.
pub fn count(left: &Left) -> u64 {
    left.values().map(|names| names.len() as u64).sum()
}

fn object(fact: &str) -> Option<(String, String)> {
    let (class, name) = fact.split_once(' ')?;
    let object = |class: &str, name: &str| Some((class.to_owned(), name.to_owned()));
    match class {
        "process" | "zombie" => {
            let program = name.split(' ').nth(1).unwrap_or_default();
            object(&format!("{class} {program}"), name)
        }
        "cgroup" => object("cgroup", below_the_hierarchy(name)),
        "file" if name.starts_with("/run/netns/") || name.contains("/netns/cni-") => {
            object("pinned netns", name)
        }
        "file" => object("directory or file", name),
        // A namespace with all that is mounted in it.
        "mount" if name.starts_with("in ") => object("mount namespace", name.split(": ").next()?),
        "agent's" => object("descriptor of the daemon", name),
        "peer" => object("peer netns", name),
        "nftables" => object("nftables", name),
        _ => object(class, name),
    }
}

/// A group's path without that of its hierarchy: `/sys/fs/cgroup/pids/a/b` is `a/b`. Where there is only the unified one,
/// there is nothing to take off.
fn below_the_hierarchy(path: &str) -> &str {
    let below = path.strip_prefix("/sys/fs/cgroup/").unwrap_or(path);
    let unified = Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    below.split_once('/').filter(|_| !unified).map_or(below, |(_, group)| group)
}

/// Drops what lies below another name.
fn keep_tops(names: &mut BTreeSet<String>) {
    let all = names.clone();
    names.retain(|name| {
        !name.starts_with('/')
            || !Path::new(name)
                .ancestors()
                .skip(1)
                .any(|above| above.to_str().is_some_and(|above| all.contains(above)))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lines: &[&str]) -> Facts {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_directory_is_one_object() {
        let left = objects(&facts(&["file /a/pods/1", "file /a/pods/1/record.json", "file /a/pods/12"]));
        assert_eq!(left["directory or file"].iter().collect::<Vec<_>>(), ["/a/pods/1", "/a/pods/12"]);
    }

    #[test]
    fn classes_are_the_kernel_s_words() {
        let left = objects(&facts(&[
            "process 42 holdfast-shim /usr/bin/holdfast-shim",
            "zombie 43 sh ",
            "netns net:[4026531840]",
            "mount in mnt:[1]: / / overlay overlay",
            "mount in mnt:[1]: /proc / proc proc",
            "file /run/netns/holdfast-1a",
            "agent's descriptor socket #4",
            "peer namespace #1",
            "nftables rule {}",
            "link veth1",
        ]));
        assert_eq!(count(&left), 9);
        let classes: Vec<&str> = left.keys().map(String::as_str).collect();
        assert_eq!(
            classes,
            [
                "descriptor of the daemon",
                "link",
                "mount namespace",
                "netns",
                "nftables",
                "peer netns",
                "pinned netns",
                "process holdfast-shim",
                "zombie sh"
            ]
        );
    }
}
