//! Which volumes get the container's SELinux label.

use std::path::{Path, PathBuf};

use crate::{
    build::Inputs,
    error::{SpecError, invalid},
    text,
};

/// Directories of the system's own, which no container may have relabelled (selinux(8): the node would not boot again).
const NEVER: [&str; 15] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var",
];

/// Sources of the request's mounts that say `selinux_relabel`. Without SELinux that asks for nothing.
pub fn sources(inputs: &Inputs<'_>) -> Result<Vec<PathBuf>, SpecError> {
    let mut sources = Vec::new();
    if inputs.host.selinux.is_none() {
        return Ok(sources);
    }
    for (index, mount) in inputs.container.mounts.iter().enumerate() {
        if !mount.selinux_relabel || mount.host_path.is_empty() {
            continue;
        }
        if NEVER.iter().any(|path| text::clean(&mount.host_path) == Path::new(path)) {
            let problem =
                format!("would change the labels of {}: choose a directory below it", mount.host_path);
            return Err(invalid(format!("mounts[{index}].selinux_relabel"), problem));
        }
        sources.push(mount.host_path.clone().into());
    }
    Ok(sources)
}
