//! Whether a mount of the host takes part in propagation.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use holdfast_sys::mount::Propagation;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::fault::{OrFail, Result, internal, invalid};

/// Refuses a propagation that nothing could ever come through, since the mount that `path` lies on is private on the
/// host. containerd and CRI-O refuse it as well: a volume that never shows what is mounted in it helps nobody.
pub fn check(path: &Path, wanted: Propagation, stage: &str) -> Result<()> {
    let (slave_is_enough, name) = match wanted {
        Propagation::Slave => (true, "shared or slave"),
        Propagation::Shared => (false, "shared"),
        Propagation::Private | Propagation::Unbindable => return Ok(()),
    };
    let tags = tags(path, stage)?;
    if tags.shared || slave_is_enough && tags.slave {
        return Ok(());
    }
    Err(invalid(
        stage,
        format!(
            "it lies on a mount that is not {name}: `mount --make-rshared` that on the host, or take the propagation out"
        ),
    ))
}

/// Optional fields of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Tags {
    shared: bool,
    slave: bool,
}

fn tags(path: &Path, stage: &str) -> Result<Tags> {
    let fd =
        openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_invalid(stage, "is it there?")?;
    let read = |path: &str| fs::read_to_string(path).or_fail(&format!("{stage}: read {path}"));
    let facts = read(&format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let id = id.ok_or_else(|| internal(stage, "no mnt_id in fdinfo"))?;
    Ok(find(&read("/proc/self/mountinfo")?, id).unwrap_or_default())
}

/// The tags of the mount with this id. The fields after the sixth are optional, and a dash ends them.
fn find(table: &str, id: &str) -> Option<Tags> {
    let line = table.lines().find_map(|line| line.strip_prefix(id)?.strip_prefix(' '))?;
    let optional = || line.split(' ').skip(5).take_while(|word| *word != "-");
    let has = |tag: &str| optional().any(|word| word.starts_with(tag));
    Some(Tags { shared: has("shared:"), slave: has("master:") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_those_of_the_mount_and_of_no_other() {
        let table = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            271 27 0:5 / /shared rw shared:7 - tmpfs shared:1 rw\n\
            2 27 0:6 / /slave rw,relatime master:7 - tmpfs t rw\n\
            3 27 0:6 / /both rw,relatime shared:8 master:7 propagate_from:2 - tmpfs t rw\n";
        let tags = |shared, slave| Some(Tags { shared, slave });
        assert_eq!(find(table, "27"), tags(false, false));
        assert_eq!(find(table, "271"), tags(true, false));
        assert_eq!(find(table, "2"), tags(false, true));
        assert_eq!(find(table, "3"), tags(true, true));
        assert_eq!(find(table, "1"), None);
    }
}
