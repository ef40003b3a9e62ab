//! What a spec must be beyond its form.

use std::collections::HashSet;

use holdfast_model::{CdiDeviceNode, CdiHook, CdiMount, ContainerEdits};
use holdfast_pod::hooks::Moment;

use super::{
    name,
    schema::{Device, Spec},
};

/// The versions that are read, oldest first (SPEC.md, "Released versions").
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

type Result<T> = std::result::Result<T, String>;

/// Checks a spec: what is wrong, with its path in the file.
pub fn spec(spec: &Spec) -> Result<()> {
    let said = spec.cdi_version.strip_prefix('v').unwrap_or(&spec.cdi_version);
    let version = VERSIONS
        .iter()
        .position(|known| *known == said)
        .ok_or_else(|| format!("cdiVersion: {:?} is not one of {}", spec.cdi_version, VERSIONS.join(", ")))?;
    name::check_kind(&spec.kind).map_err(|problem| format!("kind: {:?}: {problem}", spec.kind))?;
    if spec.devices.is_empty() {
        return Err("devices: there is none".to_owned());
    }
    edits(&spec.container_edits, "containerEdits")?;
    let mut seen = HashSet::new();
    for (index, device) in spec.devices.iter().enumerate() {
        let at = format!("devices[{index}]");
        self::device(device, &at)?;
        if !seen.insert(&device.name) {
            return Err(format!("{at}.name: {:?} is there twice", device.name));
        }
    }
    let (needed, what) = needed(spec);
    if version < needed {
        return Err(format!("cdiVersion: {what} needs version {} at least", VERSIONS[needed]));
    }
    Ok(())
}

fn device(device: &Device, at: &str) -> Result<()> {
    name::check_device(&device.name).map_err(|problem| format!("{at}.name: {:?}: {problem}", device.name))?;
    if device.container_edits.is_empty() {
        return Err(format!("{at}.containerEdits: the device changes nothing"));
    }
    edits(&device.container_edits, &format!("{at}.containerEdits"))
}

fn edits(edits: &ContainerEdits, at: &str) -> Result<()> {
    env(&edits.env, &format!("{at}.env"))?;
    for (index, node) in edits.device_nodes.iter().enumerate() {
        self::node(node, &format!("{at}.deviceNodes[{index}]"))?;
    }
    for (index, mount) in edits.mounts.iter().enumerate() {
        self::mount(mount, &format!("{at}.mounts[{index}]"))?;
    }
    for (index, hook) in edits.hooks.iter().enumerate() {
        self::hook(hook, &format!("{at}.hooks[{index}]"))?;
    }
    for (index, device) in edits.net_devices.iter().enumerate() {
        if device.host_interface_name.is_empty() || device.name.is_empty() {
            return Err(format!("{at}.netDevices[{index}]: a name is missing"));
        }
    }
    Ok(())
}

fn env(env: &[String], at: &str) -> Result<()> {
    for (index, variable) in env.iter().enumerate() {
        let key = variable.split_once('=').map_or("", |(key, _)| key);
        if key.is_empty() || variable.contains('\0') || key.chars().any(char::is_control) {
            return Err(format!("{at}[{index}]: {variable:?} is not of the form KEY=VALUE"));
        }
    }
    Ok(())
}

fn absolute(path: &str, at: &str) -> Result<()> {
    if path.starts_with('/') && !path.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("{at}: {path:?} is not an absolute path"))
}

fn node(node: &CdiDeviceNode, at: &str) -> Result<()> {
    absolute(&node.path, &format!("{at}.path"))?;
    if !node.host_path.is_empty() {
        absolute(&node.host_path, &format!("{at}.hostPath"))?;
    }
    if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
        return Err(format!("{at}.type: {:?} is not b, c, u or p", node.kind));
    }
    let permissions = &node.permissions;
    if permissions != "none" && permissions.contains(|c| !"rwm".contains(c)) {
        return Err(format!("{at}.permissions: {permissions:?} is not made of r, w and m, and is not none"));
    }
    Ok(())
}

fn mount(mount: &CdiMount, at: &str) -> Result<()> {
    // The source of a file system that is no bind mount may be any word.
    if mount.host_path.is_empty() {
        return Err(format!("{at}.hostPath: it is missing"));
    }
    absolute(&mount.container_path, &format!("{at}.containerPath"))
}

fn hook(hook: &CdiHook, at: &str) -> Result<()> {
    let names = Moment::ALL.map(Moment::name);
    if !names.contains(&hook.hook_name.as_str()) {
        return Err(format!("{at}.hookName: {:?} is not one of {}", hook.hook_name, names.join(", ")));
    }
    absolute(&hook.path, &format!("{at}.path"))?;
    if hook.timeout.is_some_and(|timeout| timeout <= 0) {
        return Err(format!("{at}.timeout: it has to be more than 0 seconds"));
    }
    env(&hook.env, &format!("{at}.env"))
}

/// The place in [`VERSIONS`] of the least version that has all that is used, and what needs it.
fn needed(spec: &Spec) -> (usize, &'static str) {
    let all = || {
        std::iter::once(&spec.container_edits)
            .chain(spec.devices.iter().map(|device| &device.container_edits))
    };
    let rdt = || all().filter_map(|edits| edits.intel_rdt.as_ref());
    let annotated =
        |map: &Option<holdfast_model::Map>| map.as_ref().is_some_and(|annotations| !annotations.is_empty());
    let table = [
        (7, "netDevices", all().any(|edits| !edits.net_devices.is_empty())),
        (
            7,
            "schemata or enableMonitoring",
            rdt().any(|rdt| !rdt.schemata.is_empty() || rdt.enable_monitoring),
        ),
        (4, "intelRdt", rdt().next().is_some()),
        (4, "additionalGids", all().any(|edits| !edits.additional_gids.is_empty())),
        (
            3,
            "annotations",
            annotated(&spec.annotations) || spec.devices.iter().any(|device| annotated(&device.annotations)),
        ),
        (3, "a dot in the class", spec.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'))),
        (
            2,
            "a device whose name begins with a digit",
            spec.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit())),
        ),
        (
            2,
            "hostPath of a device node",
            all().flat_map(|edits| &edits.device_nodes).any(|node| !node.host_path.is_empty()),
        ),
        (1, "type of a mount", all().flat_map(|edits| &edits.mounts).any(|mount| !mount.kind.is_empty())),
    ];
    table.into_iter().find(|(_, _, used)| *used).map_or((0, ""), |(version, what, _)| (version, what))
}
