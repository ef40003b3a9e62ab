//! What CDI devices change in a spec, as the reference implementation does (pkg/cdi/container-edits.go of
//! cncf-tags/container-device-interface). The files that say so are the node's own: they may do what a request may not.

use std::{fs, io, os::unix::fs::FileTypeExt, os::unix::fs::MetadataExt, path::Path};

use holdfast_model::{CdiDeviceNode, CdiHook, CdiMount, ContainerEdits, MountPropagation};
use oci_spec::runtime::{Hook, Hooks, LinuxDevice, LinuxDeviceType};
use serde_json::{Map, Value, json};

use crate::{
    bind::{Bind, Maps, check_target},
    devices::{Devices, permissions, rule_of},
    error::{SpecError, invalid, not_found, unsupported},
    text,
};

/// Refuses what this runtime cannot do.
pub fn check(edits: &ContainerEdits) -> Result<(), SpecError> {
    if edits.intel_rdt.is_some() {
        return Err(unsupported("CDI_devices", "a device sets intelRdt, which is not supported yet"));
    }
    if !edits.net_devices.is_empty() {
        return Err(unsupported("CDI_devices", "a device has netDevices, which are not supported yet"));
    }
    Ok(())
}

/// Adds the device nodes and the rules for them. `owner` has those that say nothing of one. Looks at the host's nodes.
pub fn add_devices(
    edits: &ContainerEdits,
    devices: &mut Devices,
    owner: (u32, u32),
    privileged: bool,
) -> Result<(), SpecError> {
    for node in &edits.device_nodes {
        let field = format!("CDI device node {}", node.path);
        text::absolute(&field, &node.path)?;
        let device = device(node, owner, &field)?;
        let allowed = match node.permissions.as_str() {
            "none" => (false, false, false),
            letters => permissions(letters, &field)?,
        };
        let has_rule = device.typ() != LinuxDeviceType::P && allowed != (false, false, false);
        if has_rule && !privileged {
            devices.rules.push(rule_of(&device, allowed));
        }
        devices.add_node(device)?;
    }
    Ok(())
}

/// A node of the host: type, numbers, mode.
struct Found {
    kind: LinuxDeviceType,
    major: u32,
    minor: u32,
    mode: u32,
}

/// What a node does not say is as the host has it. One that says type and number need not be there.
fn device(node: &CdiDeviceNode, owner: (u32, u32), field: &str) -> Result<LinuxDevice, SpecError> {
    let kind = match node.kind.as_str() {
        "" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        "u" => Some(LinuxDeviceType::U),
        "p" => Some(LinuxDeviceType::P),
        other => return Err(invalid(field, format!("type {other:?} is not b, c, u or p"))),
    };
    let host_path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let found = look(Path::new(host_path));
    let mut device = LinuxDevice::default();
    let mode = node.file_mode.or(found.as_ref().ok().map(|found| found.mode));
    if let Some(kind) = kind.filter(|kind| *kind == LinuxDeviceType::P || node.major != 0) {
        device.set_typ(kind).set_major(node.major.into()).set_minor(node.minor.into());
    } else {
        let found = found.map_err(|error| missing(host_path, field, error))?;
        let same = |kind: LinuxDeviceType| {
            kind == found.kind || (kind == LinuxDeviceType::U && found.kind == LinuxDeviceType::C)
        };
        if kind.is_some_and(|kind| !same(kind)) {
            let problem = format!("{host_path:?} is of another type than {:?}", node.kind);
            return Err(invalid(field, problem));
        }
        let numbers = if node.major == 0 { (found.major, found.minor) } else { (node.major, node.minor) };
        device.set_typ(kind.unwrap_or(found.kind)).set_major(numbers.0.into()).set_minor(numbers.1.into());
    }
    device
        .set_path(text::clean(&node.path))
        .set_file_mode(mode.map(|mode| mode & 0o7777))
        .set_uid(Some(node.uid.unwrap_or(owner.0)))
        .set_gid(Some(node.gid.unwrap_or(owner.1)));
    Ok(device)
}

fn look(path: &Path) -> io::Result<Found> {
    let meta = fs::metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_fifo() => LinuxDeviceType::P,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no device node")),
    };
    let number = meta.rdev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    Ok(Found { kind, major, minor, mode: meta.mode() & 0o7777 })
}

fn missing(path: &str, field: &str, error: io::Error) -> SpecError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            not_found(field, format!("{path:?} is not on this node: is its driver loaded?"))
        }
        io::ErrorKind::InvalidInput => invalid(field, format!("{path:?} is no device node")),
        _ => SpecError::Host { operation: "look up CDI device", path: path.into(), source: error },
    }
}

/// The mounts. The container's root inside a user namespace gets bind mounts with its own ids.
pub fn mounts(edits: &ContainerEdits, maps: &Maps) -> Result<Vec<Bind>, SpecError> {
    edits.mounts.iter().map(|mount| self::mount(mount, maps)).collect()
}

fn mount(mount: &CdiMount, maps: &Maps) -> Result<Bind, SpecError> {
    let field = format!("CDI mount {}", mount.container_path);
    text::absolute(&field, &mount.container_path)?;
    let target = text::clean(&mount.container_path);
    check_target(&target, Path::new(&mount.host_path), &field)?;
    let mut options = mount.options.clone();
    let has = |options: &[String], name: &str| options.iter().any(|option| option == name);
    let is_bind = has(&options, "bind") || has(&options, "rbind");
    let kind = match mount.kind.as_str() {
        _ if is_bind => "bind",
        "" | "none" | "bind" => {
            options.insert(0, "bind".to_owned());
            "bind"
        }
        other => other,
    };
    if kind != "bind" {
        return Ok(Bind::of_file_system(kind, &mount.host_path, target, options));
    }
    text::absolute(&format!("{field}: hostPath"), &mount.host_path)?;
    if !maps.is_empty() && !has(&options, "idmap") && !has(&options, "ridmap") {
        options.push(if has(&options, "rbind") { "ridmap" } else { "idmap" }.to_owned());
    }
    let propagation = if has(&options, "rshared") || has(&options, "shared") {
        MountPropagation::Bidirectional
    } else if has(&options, "rslave") || has(&options, "slave") {
        MountPropagation::HostToContainer
    } else {
        MountPropagation::Private
    };
    Ok(Bind::of_path(mount.host_path.clone().into(), target, propagation, options, maps))
}

/// Groups of the process, without those that are there and without 0, which is none.
pub fn add_groups(edits: &ContainerEdits, groups: &mut Vec<u32>) {
    for group in edits.additional_gids.iter().filter(|group| **group != 0) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
}

/// The hooks, in their order.
pub fn hooks(edits: &ContainerEdits) -> Result<Option<Hooks>, SpecError> {
    if edits.hooks.is_empty() {
        return Ok(None);
    }
    let mut all: Map<String, Value> = Map::new();
    for hook in &edits.hooks {
        let list = all.entry(hook.hook_name.clone()).or_insert_with(|| json!([]));
        list.as_array_mut().into_iter().for_each(|list| list.push(json!(to_oci(hook))));
    }
    let bad = |error: serde_json::Error| invalid("CDI_devices", format!("hooks: {error}"));
    serde_json::from_value(Value::Object(all)).map(Some).map_err(bad)
}

fn to_oci(hook: &CdiHook) -> Hook {
    let some = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let mut oci = Hook::default();
    oci.set_path(hook.path.clone().into())
        .set_args(some(&hook.args))
        .set_env(some(&hook.env))
        .set_timeout(hook.timeout);
    oci
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "cdi_tests.rs"]
mod tests;
