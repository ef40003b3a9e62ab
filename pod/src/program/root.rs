//! The holder's root: a read-only tmpfs with the pod's /dev/shm and a place for the containers' start, nothing else.

use holdfast_bare::mount::{
    NODEV, NOEXEC, NOSUID, RDONLY, add_attributes, attach, change_root, make_all_private, make_dir, tmpfs,
};
use holdfast_bare::process::flags::NEWIPC;

use super::args::Config;
use super::fault::{Fault, Stage};

const NOTHING_SPECIAL: u64 = NOSUID | NODEV | NOEXEC;

/// Makes it, and takes the host's tree away.
pub fn build(config: &Config) -> Result<(), Fault<'static>> {
    // First: what is detached from a shared mount is detached from its peers, too.
    make_all_private().stage("make the mounts private")?;
    // Directories take no size; the number of inodes is the root, /dev, /dev/shm, /root and one that tmpfs counts.
    let options = [(c"size", c"4k"), (c"nr_inodes", c"8"), (c"mode", c"0755")];
    let root = tmpfs(&options, NOTHING_SPECIAL).stage("make the root file system")?;
    attach(&root, c"/").stage("attach the root file system")?;
    change_root(&root).stage("pivot_root")?;
    // Here a container's start hangs its root, in a copy of this mount namespace.
    make_dir(c"/root", 0o755).stage("make directory /root")?;
    if config.owns(NEWIPC) {
        make_dir(c"/dev", 0o755).stage("make directory /dev")?;
        make_dir(c"/dev/shm", 0o755).stage("make directory /dev/shm")?;
        let label = config.shm_label.map(|label| (c"context", label));
        let all = [(c"size", config.shm_size), (c"mode", c"1777"), label.unwrap_or((c"", c""))];
        let options = if label.is_some() { &all[..] } else { &all[..2] };
        let shm = tmpfs(options, NOTHING_SPECIAL).stage_of("make /dev/shm of size", config.shm_size)?;
        attach(&shm, c"/dev/shm").stage("attach /dev/shm")?;
    }
    add_attributes(&root, RDONLY).stage("make the root read-only")
}
