//! Whether a mount of the host takes part in propagation.

use std::path::Path;

use holdfast_sys::mount::{self, Propagation};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::fault::{OrFail, Result, invalid};

/// Refuses a propagation that nothing could ever come through, since the mount that `path` lies on is private on the
/// host. containerd and CRI-O refuse it as well: a volume that never shows what is mounted in it helps nobody.
pub fn check(path: &Path, wanted: Propagation, stage: &str) -> Result<()> {
    let (slave_is_enough, name) = match wanted {
        Propagation::Slave => (true, "shared or slave"),
        Propagation::Shared => (false, "shared"),
        Propagation::Private | Propagation::Unbindable => return Ok(()),
    };
    let fd =
        openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).or_invalid(stage, "is it there?")?;
    let peers = mount::peers_of(&fd).or_fail(stage)?;
    if peers.shared || slave_is_enough && peers.slave {
        return Ok(());
    }
    Err(invalid(
        stage,
        format!(
            "it lies on a mount that is not {name}: `mount --make-rshared` that on the host, or take the propagation out"
        ),
    ))
}
