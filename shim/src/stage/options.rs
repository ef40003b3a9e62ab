//! Mount options as runtime specs write them (mount(8), runtime-spec config.md), sorted by what the kernel wants.

use holdfast_sys::mount::{
    self, ATIME_MASK, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, Propagation, RDONLY,
    STRICTATIME,
};

/// Sorted options.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// It is a bind mount.
    pub bind: bool,
    /// With what is mounted below.
    pub recursive: bool,
    /// Attributes of the mount.
    pub set: u64,
    /// Attributes that it must not have.
    pub clear: u64,
    /// Attributes of every mount of the tree (`rro` and its kin).
    pub set_all: u64,
    /// Attributes that no mount of the tree may have.
    pub clear_all: u64,
    /// Propagation, and whether it is for the whole tree.
    pub propagation: Option<(Propagation, bool)>,
    /// Ids are mapped in the whole tree (`ridmap`) and not at its top alone (`idmap`, the default).
    pub map_all: bool,
    /// What is left is the file system's own: `key` or `key=value`.
    pub data: Vec<String>,
}

impl Options {
    /// Sorts. What is unknown is the file system's own.
    pub fn parse(options: &[String]) -> Self {
        let mut sorted = Self::default();
        for option in options {
            sorted.take(option);
        }
        sorted
    }

    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "idmap" => self.map_all = false,
            "ridmap" => self.map_all = true,
            // Nothing to do: what the kernel does anyway, or what only fstab reads.
            "defaults" | "async" | "loud" | "norelatime" | "nomand" | "auto" | "noauto" | "user"
            | "nofail" | "" => {}
            _ => {
                if let Some(propagation) = propagation(option) {
                    self.propagation = Some(propagation);
                } else if let Some((set, clear)) = attribute(option) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
                    self.set_all = self.set_all & !clear | set;
                    self.clear_all = self.clear_all & !set | clear;
                } else {
                    self.data.push(option.to_owned());
                }
            }
        }
    }

    /// Applies all of it to a detached tree.
    pub fn apply(&self, tree: &std::os::fd::OwnedFd) -> holdfast_sys::error::Result<()> {
        let change = |set, clear| mount::Change { set, clear, ..mount::Change::default() };
        mount::set_attributes(tree, true, change(self.set_all, self.clear_all))?;
        mount::set_attributes(tree, false, change(self.set, self.clear))?;
        // A copy of a shared mount is its peer: what is not asked for must not show on the host.
        let (propagation, recursive) = self.propagation.unwrap_or((Propagation::Private, true));
        let change = mount::Change { propagation: Some(propagation), ..mount::Change::default() };
        if !recursive {
            let private =
                mount::Change { propagation: Some(Propagation::Private), ..mount::Change::default() };
            mount::set_attributes(tree, true, private)?;
        }
        mount::set_attributes(tree, recursive, change)
    }
}

fn propagation(option: &str) -> Option<(Propagation, bool)> {
    Some(match option {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// Bits to set and to clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        "noatime" => (NOATIME, 0),
        "strictatime" => (STRICTATIME, 0),
        "relatime" | "atime" | "nostrictatime" => (0, ATIME_MASK),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn binds_have_flags_and_propagation() {
        let options = parse(&["rbind", "rslave", "ro", "nosuid"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.set, RDONLY | NOSUID);
        assert_eq!(options.propagation, Some((Propagation::Slave, true)));
        assert!(options.data.is_empty());
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(parse(&["ro", "rw"]).set, 0);
        assert_eq!(parse(&["ro", "rw"]).clear, RDONLY);
        assert_eq!(parse(&["rw", "ro"]).clear, 0);
    }

    #[test]
    fn recursive_flags_are_not_taken_for_others() {
        let options = parse(&["rro", "rnosuid", "relatime", "rw"]);
        assert_eq!(options.set_all, RDONLY | NOSUID);
        assert_eq!(options.clear, ATIME_MASK | RDONLY);
    }

    #[test]
    fn the_rest_is_data() {
        let options = parse(&["nosuid", "mode=755", "size=65536k", "newinstance"]);
        assert_eq!(options.data, ["mode=755", "size=65536k", "newinstance"]);
    }
}
