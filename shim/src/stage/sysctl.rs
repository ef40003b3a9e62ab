//! The container's own sysctls (the pod's are the holder's).

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::launch::{Launch, linux};
use super::mounts::Made;
use crate::fault::{OrFail, Result, invalid};

/// Writes them, through the procfs that we mounted ourselves.
pub fn apply(launch: &Launch, made: &Made) -> Result<()> {
    let Some(all) = linux(launch).and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (name, value) in all {
        let stage = format!("set sysctl {name}");
        let proc = made.proc.as_ref().ok_or_else(|| invalid(&stage, "the spec mounts no proc"))?;
        let path = format!("sys/{}", name.replace('.', "/"));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(proc.as_fd(), path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
            .or_invalid(&stage, "the kernel has no such sysctl for this container")?;
        File::from(file)
            .write_all(value.as_bytes())
            .or_invalid(&stage, "the kernel does not take this value")?;
    }
    Ok(())
}
