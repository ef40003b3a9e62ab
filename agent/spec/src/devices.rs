//! Device nodes, and which devices the cgroup lets a container use.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use glob::Pattern;
use holdfast_model::{ContainerSecurity, Device, DeviceKind, DeviceRule};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::{
    error::{SpecError, invalid, not_found},
    oci, text,
};

/// Names in /dev that a privileged container does not get: they are mounts or links of its own, or the host's console.
const NOT_SHARED: [&str; 11] =
    ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx", "stdin", "core"];
/// How deep directories of devices are walked.
const MAX_DEPTH: usize = 8;
/// Most device nodes of one container.
const MAX_NODES: usize = 16 * 1024;

fn to_oci(rule: &DeviceRule) -> LinuxDeviceCgroup {
    let kind = match rule.kind {
        DeviceKind::Any => LinuxDeviceType::A,
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    };
    let mut oci = oci::device_rule(true);
    oci.set_typ(Some(kind))
        .set_major(rule.major.map(i64::from))
        .set_minor(rule.minor.map(i64::from))
        .set_access(Some(rule.permissions()));
    oci
}

/// The rules as the OCI spec writes them: first nothing, then what is allowed.
pub fn oci_rules(rules: &[DeviceRule]) -> Vec<LinuxDeviceCgroup> {
    let mut nothing = oci::device_rule(false);
    nothing.set_access(Some("rwm".to_owned()));
    std::iter::once(nothing).chain(rules.iter().map(to_oci)).collect()
}

/// Device nodes and rules of a container.
#[derive(Debug)]
pub struct Devices {
    /// Nodes beyond the ones that every container has.
    pub nodes: Vec<LinuxDevice>,
    /// What may be used.
    pub rules: Vec<DeviceRule>,
}

/// Whom nodes of a request belong to; what it does not say stays as on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Owner {
    /// The user and the group that the request names by number, as with containerd but root.
    pub fn of(security: &ContainerSecurity) -> Self {
        let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0);
        Self { uid: id(security.run_as_user), gid: id(security.run_as_group) }
    }

    fn take(self, node: &mut LinuxDevice) {
        if self.uid.is_some() {
            node.set_uid(self.uid);
        }
        if self.gid.is_some() {
            node.set_gid(self.gid);
        }
    }
}

/// The devices of a request, or all of the host's below `dev`. Reads the file system.
pub fn devices(asked: &[Device], privileged: bool, dev: &Path, owner: Owner) -> Result<Devices, SpecError> {
    let mut found = Devices { nodes: Vec::new(), rules: DeviceRule::defaults() };
    if privileged {
        found.rules = vec![DeviceRule::ALL];
        walk(dev, Path::new("/dev"), &NOT_SHARED, 0, &mut |node| found.add_node(node))?;
    }
    for (index, device) in asked.iter().enumerate() {
        found.add(device, privileged, owner, &format!("devices[{index}]"))?;
    }
    Ok(found)
}

impl Devices {
    /// Adds a node, in the place of one that is there.
    pub fn add_node(&mut self, node: LinuxDevice) -> Result<(), SpecError> {
        self.nodes.retain(|known| known.path() != node.path());
        if self.nodes.len() >= MAX_NODES {
            return Err(invalid("devices", format!("are more than {MAX_NODES} nodes: name single devices")));
        }
        self.nodes.push(node);
        Ok(())
    }

    fn add(&mut self, device: &Device, privileged: bool, owner: Owner, field: &str) -> Result<(), SpecError> {
        let host_field = format!("{field}.host_path");
        text::absolute(&host_field, &device.host_path)?;
        let inside =
            if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        text::absolute(&format!("{field}.container_path"), inside)?;
        let permissions = permissions(&device.permissions, &format!("{field}.permissions"))?;

        let nodes = match Several::of(&device.host_path, &host_field)? {
            Some(several) => several.nodes(inside, &host_field)?,
            None => nodes_at(&device.host_path, inside, &host_field)?,
        };
        if nodes.is_empty() {
            let problem = format!(
                "{:?} is no device: name a device node, a directory of them or a pattern",
                device.host_path
            );
            return Err(invalid(host_field, problem));
        }
        for mut node in nodes {
            owner.take(&mut node);
            if !privileged {
                self.rules.push(rule_of(&node, permissions));
            }
            self.add_node(node)?;
        }
        Ok(())
    }
}

/// The node of a path, or all that are below it.
fn nodes_at(host_path: &str, inside: &str, field: &str) -> Result<Vec<LinuxDevice>, SpecError> {
    let path = fs::canonicalize(host_path).map_err(|error| missing(host_path, field, error))?;
    let mut nodes = Vec::new();
    if path.is_dir() {
        walk(&path, Path::new(inside), &NOT_SHARED, 0, &mut |node| {
            nodes.push(node);
            Ok(())
        })?;
    } else {
        let meta = fs::symlink_metadata(&path).map_err(|error| missing(host_path, field, error))?;
        nodes.extend(node(&meta, text::clean(inside)));
    }
    Ok(nodes)
}

/// A path whose last part is a pattern, such as `/dev/video*`: all nodes of that directory whose name matches.
#[derive(Debug)]
struct Several<'a> {
    directory: &'a Path,
    pattern: Pattern,
    host_path: &'a str,
}

impl<'a> Several<'a> {
    /// `None` for a path without a pattern; what is there by that very name is meant by it.
    fn of(host_path: &'a str, field: &str) -> Result<Option<Self>, SpecError> {
        let path = Path::new(host_path);
        let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            return Ok(None);
        };
        if !name.contains(['*', '?', '[']) || path.symlink_metadata().is_ok() {
            return Ok(None);
        }
        let pattern = Pattern::new(name).map_err(|error| {
            invalid(field, format!("{host_path:?} has a pattern that cannot be read: {error}"))
        })?;
        Ok(Some(Self { directory, pattern, host_path }))
    }

    /// Each with its own name, in the directory `inside` unless that is the pattern itself.
    fn nodes(&self, inside: &str, field: &str) -> Result<Vec<LinuxDevice>, SpecError> {
        let inside = if inside == self.host_path { self.directory } else { Path::new(inside) };
        let failed =
            |source| SpecError::Host { operation: "list devices in", path: self.directory.into(), source };
        let entries = fs::read_dir(self.directory).map_err(|error| missing(self.host_path, field, error))?;
        let mut nodes = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str().filter(|name| self.pattern.matches(name)) else { continue };
            let (host, inside) = (self.directory.join(name), inside.join(name));
            // A link leads to a node, as one that is named does. What vanishes meanwhile was not there.
            let Ok(meta) = fs::metadata(&host) else { continue };
            nodes.extend(node(&meta, text::clean(&inside.to_string_lossy())));
        }
        if nodes.is_empty() {
            return Err(not_found(
                field,
                format!("{:?} matches no device of this node: name one that is there", self.host_path),
            ));
        }
        Ok(nodes)
    }
}

fn missing(path: &str, field: &str, error: io::Error) -> SpecError {
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return not_found(field, format!("{path:?} is not on this node: name a device that is"));
    }
    SpecError::Host { operation: "look up device", path: path.into(), source: error }
}

/// Read, write, mknod from `r`, `w`, `m` in any order; empty is all, as Docker has it.
pub fn permissions(text: &str, field: &str) -> Result<(bool, bool, bool), SpecError> {
    if text.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(invalid(field, format!("{text:?} is not made of r, w and m")));
    }
    let has = |letter| text.is_empty() || text.contains(letter);
    Ok((has('r'), has('w'), has('m')))
}

/// The rule that lets a container use the node.
pub fn rule_of(node: &LinuxDevice, (read, write, mknod): (bool, bool, bool)) -> DeviceRule {
    let kind = if node.typ() == LinuxDeviceType::B { DeviceKind::Block } else { DeviceKind::Char };
    let number = |number: i64| u32::try_from(number).ok();
    DeviceRule { kind, major: number(node.major()), minor: number(node.minor()), read, write, mknod }
}

/// Calls `add` with every device node below `directory`. What vanishes meanwhile was not there.
fn walk(
    directory: &Path,
    inside: &Path,
    left_out: &[&str],
    depth: usize,
    add: &mut dyn FnMut(LinuxDevice) -> Result<(), SpecError>,
) -> Result<(), SpecError> {
    let failed =
        |source| SpecError::Host { operation: "list devices in", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if left_out.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        let inside = inside.join(&name);
        if meta.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), &inside, left_out, depth + 1, add)?;
        } else if let Some(node) = node(&meta, inside) {
            add(node)?;
        }
    }
    Ok(())
}

/// The node at `path` in the container for a device of the host; `None` for anything else.
fn node(meta: &fs::Metadata, path: PathBuf) -> Option<LinuxDevice> {
    let kind = if meta.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if meta.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let number = meta.rdev();
    let mut node = LinuxDevice::default();
    node.set_path(path)
        .set_typ(kind)
        .set_major(i64::from(libc::major(number)))
        .set_minor(i64::from(libc::minor(number)))
        .set_file_mode(Some(meta.mode() & 0o7777))
        .set_uid(Some(meta.uid()))
        .set_gid(Some(meta.gid()));
    Some(node)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn device(host: &str, inside: &str, permissions: &str) -> Device {
        Device { host_path: host.into(), container_path: inside.into(), permissions: permissions.into() }
    }

    fn find(asked: &[Device]) -> Result<Devices, SpecError> {
        devices(asked, false, Path::new("/dev"), Owner::default())
    }

    #[test]
    fn a_device_and_its_rule() {
        let found = find(&[device("/dev/null", "/dev/nothing", "wr")]).unwrap();
        let [node] = found.nodes.as_slice() else { panic!("{found:?}") };
        assert_eq!(node.path(), Path::new("/dev/nothing"));
        assert_eq!((node.typ(), node.major(), node.minor()), (LinuxDeviceType::C, 1, 3));
        let rule = found.rules.last().unwrap();
        assert_eq!(
            (rule.major, rule.minor, rule.read, rule.write, rule.mknod),
            (Some(1), Some(3), true, true, false)
        );
    }

    #[test]
    fn nodes_belong_to_the_request_s_user_if_that_is_asked_for() {
        let security = |user, group| ContainerSecurity {
            run_as_user: user,
            run_as_group: group,
            ..ContainerSecurity::default()
        };
        let asked = [device("/dev/null", "/dev/x", "r")];
        for (security, uid, gid) in [
            (security(None, None), 0, 0),
            (security(Some(1000), None), 1000, 0),
            (security(Some(1000), Some(2000)), 1000, 2000),
            (security(Some(0), Some(2000)), 0, 2000),
        ] {
            let found = devices(&asked, false, Path::new("/dev"), Owner::of(&security)).unwrap();
            assert_eq!((found.nodes[0].uid(), found.nodes[0].gid()), (Some(uid), Some(gid)));
        }
        // The host's own nodes of a privileged container stay the host's.
        let found = devices(&[], true, Path::new("/dev"), Owner::of(&security(Some(7), Some(7)))).unwrap();
        assert!(found.nodes.iter().all(|node| node.uid() != Some(7)));
    }

    #[test]
    fn links_directories_and_defaults() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let found = find(&[device(link.to_str().unwrap(), "/dev/x", "")]).unwrap();
        assert_eq!((found.nodes[0].major(), found.nodes[0].minor()), (1, 5));
        assert!(found.rules.last().unwrap().mknod);

        let found = find(&[device("/dev", "/devices", "r")]).unwrap();
        assert!(found.nodes.iter().any(|node| node.path() == Path::new("/devices/null")));
        assert!(!found.nodes.iter().any(|node| node.path().starts_with("/devices/pts")));
        assert_eq!(find(&[]).unwrap().rules, DeviceRule::defaults());
    }

    #[test]
    fn a_pattern_is_all_that_match() {
        let paths = |asked: Device| {
            let mut found: Vec<_> =
                find(&[asked]).unwrap().nodes.iter().map(|node| node.path().clone()).collect();
            found.sort();
            found
        };
        assert_eq!(
            paths(device("/dev/[nz]*[lo]", "/dev/some", "r")),
            ["/dev/some/null", "/dev/some/zero"].map(PathBuf::from)
        );
        for inside in ["", "/dev/nul?"] {
            assert_eq!(paths(device("/dev/nul?", inside, "r")), [PathBuf::from("/dev/null")]);
        }
        let place = tempfile::tempdir().unwrap();
        let odd = place.path().join("a*");
        std::os::unix::fs::symlink("/dev/zero", &odd).unwrap();
        std::os::unix::fs::symlink("/dev/null", place.path().join("ab")).unwrap();
        assert_eq!(paths(device(odd.to_str().unwrap(), "/dev/odd", "r")), [PathBuf::from("/dev/odd")]);
    }

    #[test]
    fn what_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (asked, kind, part) in [
            (device("null", "/dev/x", "r"), crate::ErrorKind::InvalidArgument, "devices[0].host_path"),
            (device("/dev/null", "x", "r"), crate::ErrorKind::InvalidArgument, "devices[0].container_path"),
            (
                device("/dev/null", "/dev/x", "rx"),
                crate::ErrorKind::InvalidArgument,
                "devices[0].permissions",
            ),
            (device("/dev/no-such", "/dev/x", "r"), crate::ErrorKind::NotFound, "/dev/no-such"),
            (device("/dev/null/x", "/dev/x", "r"), crate::ErrorKind::NotFound, "/dev/null/x"),
            (device("/dev/no-such*", "/dev/x", "r"), crate::ErrorKind::NotFound, "matches no device"),
            (device("/dev/[", "/dev/x", "r"), crate::ErrorKind::InvalidArgument, "devices[0].host_path"),
            (
                device(file.path().to_str().unwrap(), "/dev/x", "r"),
                crate::ErrorKind::InvalidArgument,
                "no device",
            ),
        ] {
            let error = find(&[asked]).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_privileged_container_has_the_hosts_but_no_console() {
        let found = devices(&[], true, Path::new("/dev"), Owner::default()).unwrap();
        assert_eq!(found.rules, [DeviceRule::ALL]);
        let has = |path: &str| found.nodes.iter().any(|node| node.path() == Path::new(path));
        assert!(has("/dev/null") && has("/dev/full"));
        assert!(!has("/dev/console") && !has("/dev/ptmx") && !has("/dev/pts/0"));
        let rules = serde_json::to_value(oci_rules(&found.rules)).unwrap();
        assert_eq!(rules[0], serde_json::json!({ "allow": false, "access": "rwm" }));
        assert_eq!(rules[1], serde_json::json!({ "allow": true, "type": "a", "access": "rwm" }));
    }
}
