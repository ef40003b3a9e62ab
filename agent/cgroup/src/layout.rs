//! Which hierarchies this host has.
//!
//! Found with cgroups-rs: `mountinfo_self` for the v1 mounts, `is_cgroup2_unified_mode` for the unified one. What it
//! does not know (the cgroup2 mount of a hybrid host, named hierarchies, controllers mounted twice) is decided here.

use std::path::{Path, PathBuf};

use cgroups_rs::fs::hierarchies;
use serde::{Deserialize, Serialize};

use crate::{Error, files::GroupDir};

const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// What kinds of hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// v1 only.
    V1,
    /// v1 for the controllers, v2 beside them.
    Hybrid,
    /// v2 only.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    pub root: PathBuf,
    /// v1: its controllers, or `name=systemd`. Empty for v2.
    pub controllers: Vec<String>,
    pub unified: bool,
}

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub mode: Mode,
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Those of this host.
    pub fn detect() -> Result<Self, Error> {
        let base = Path::new(hierarchies::UNIFIED_MOUNTPOINT);
        if hierarchies::is_cgroup2_unified_mode() {
            return Ok(Self::v2(base.to_owned()));
        }
        let mounts = hierarchies::mountinfo_self()
            .into_iter()
            .filter(|mount| mount.fs_type.0 == "cgroup")
            .map(|mount| (mount.mount_point, mount.super_opts));
        let mut found = v1_hierarchies(base, mounts.collect());
        if found.is_empty() {
            return Err(Error::NotMounted);
        }
        let unified = base.join("unified");
        let is_cgroup2 =
            |path| rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_SUPER_MAGIC);
        let mode = if is_cgroup2(&unified) {
            found.push(Hierarchy { root: unified, controllers: Vec::new(), unified: true });
            Mode::Hybrid
        } else {
            Mode::V1
        };
        Ok(Self { mode, hierarchies: found })
    }

    /// A unified hierarchy mounted at `root`.
    pub fn v2(root: PathBuf) -> Self {
        Self { mode: Mode::V2, hierarchies: vec![Hierarchy { root, controllers: Vec::new(), unified: true }] }
    }

    /// The v2 hierarchy.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.unified)
    }

    /// The hierarchy that a controller's files are in: on v2 always the unified one, else the v1 hierarchy of it.
    pub fn of(&self, controller: &str) -> Option<&Hierarchy> {
        if self.mode == Mode::V2 {
            return self.unified();
        }
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// The group's directory for a controller; `None` where no hierarchy has it.
    pub fn open(&self, controller: &str, path: &str) -> Result<Option<GroupDir>, Error> {
        self.of(controller).map(|hierarchy| GroupDir::open(hierarchy.dir(path))).transpose()
    }
}

impl Hierarchy {
    /// The directory of the group `path`, which starts with a slash.
    pub fn dir(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// One hierarchy for each set of controllers. A controller can be seen at several mount points (bind mounts of nested
/// runtimes); the one directly below `base` counts, else the first.
fn v1_hierarchies(base: &Path, mounts: Vec<(PathBuf, Vec<String>)>) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for (root, options) in mounts {
        let controllers = controllers(options);
        if controllers.is_empty() {
            continue;
        }
        match found.iter_mut().find(|known| known.controllers == controllers) {
            None => found.push(Hierarchy { root, controllers, unified: false }),
            Some(known) if known.root.parent() != Some(base) && root.parent() == Some(base) => {
                known.root = root;
            }
            Some(_) => {}
        }
    }
    found
}

/// What remains of the super block's options without those that are not controllers.
fn controllers(options: Vec<String>) -> Vec<String> {
    const NOT_CONTROLLERS: [&str; 9] = [
        "rw",
        "ro",
        "xattr",
        "clone_children",
        "noprefix",
        "cpuset_v2_mode",
        "favordynmods",
        "nofavordynmods",
        "seclabel",
    ];
    let mut names: Vec<_> = options
        .into_iter()
        .filter(|name| !NOT_CONTROLLERS.contains(&name.as_str()) && !name.starts_with("release_agent="))
        .collect();
    // A named hierarchy has no controllers, a hierarchy with controllers can have a name as well.
    names.sort();
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mount(point: &str, options: &str) -> (PathBuf, Vec<String>) {
        (point.into(), options.split(',').map(Into::into).collect())
    }

    #[test]
    fn each_v1_hierarchy_counts_once_and_below_the_usual_place() {
        let base = Path::new("/sys/fs/cgroup");
        let found = v1_hierarchies(
            base,
            vec![
                mount("/elsewhere/memory", "rw,memory"),
                mount("/sys/fs/cgroup/memory", "rw,memory"),
                mount("/sys/fs/cgroup/cpu,cpuacct", "rw,seclabel,cpuacct,cpu"),
                mount("/sys/fs/cgroup/cpu/docker/1", "rw,cpu,cpuacct"),
                mount("/sys/fs/cgroup/systemd", "rw,xattr,release_agent=/lib/systemd/x,name=systemd"),
            ],
        );
        let short: Vec<_> =
            found.iter().map(|h| (h.root.to_str().unwrap(), h.controllers.join("+"))).collect();
        assert_eq!(
            short,
            [
                ("/sys/fs/cgroup/memory", "memory".to_owned()),
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu+cpuacct".to_owned()),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned()),
            ]
        );
    }

    #[test]
    fn this_host_has_a_memory_controller_somewhere() {
        let layout = Layout::detect().unwrap();
        assert!(layout.of("memory").is_some_and(|hierarchy| hierarchy.root.is_dir()));
        assert_eq!(layout.mode == Mode::V1, layout.unified().is_none());
    }
}
