//! Empty objects of oci-spec. Its `Default`s carry a foreign hostname, ambient capabilities, a low limit of open files and
//! more; what is read from an empty document holds nothing, whatever a later version of the crate adds.

use holdfast_pod::launch::IdMap;
use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType,
    LinuxResources, Process, Root, Spec, User,
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The version that specs say they follow.
pub const VERSION: &str = "1.3.0";

fn empty<T: DeserializeOwned>(document: serde_json::Value) -> T {
    serde_json::from_value(document).expect("every field of the document is optional or given")
}

pub fn spec() -> Spec {
    empty(json!({ "ociVersion": VERSION }))
}

pub fn process(cwd: &str) -> Process {
    empty(json!({ "user": {}, "cwd": cwd }))
}

pub fn linux() -> Linux {
    empty(json!({}))
}

pub fn root(readonly: bool) -> Root {
    empty(json!({ "path": "rootfs", "readonly": readonly }))
}

pub fn capabilities() -> LinuxCapabilities {
    empty(json!({}))
}

pub fn resources() -> LinuxResources {
    empty(json!({}))
}

pub fn device_rule(allow: bool) -> LinuxDeviceCgroup {
    empty(json!({ "allow": allow }))
}

pub fn user(uid: u32, gid: u32, additional: Option<Vec<u32>>) -> User {
    let mut user: User = empty(json!({ "uid": uid, "gid": gid }));
    user.set_additional_gids(additional);
    user
}

pub fn mapping(inside: u32, outside: u32, count: u32) -> LinuxIdMapping {
    empty(json!({ "containerID": inside, "hostID": outside, "size": count }))
}

/// The lines of an id map.
pub fn mappings(maps: &[IdMap]) -> Vec<LinuxIdMapping> {
    maps.iter().map(|map| mapping(map.inside, map.outside, map.count)).collect()
}

pub fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace: LinuxNamespace = empty(json!({ "type": "mount" }));
    namespace.set_typ(kind);
    namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_hold_nothing() {
        assert_eq!(json!(spec()), json!({ "ociVersion": "1.3.0" }));
        assert_eq!(json!(process("/")), json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/" }));
        assert_eq!(json!(linux()), json!({}));
        assert_eq!(json!(root(true)), json!({ "path": "rootfs", "readonly": true }));
        assert_eq!(json!(capabilities()), json!({}));
        assert_eq!(json!(resources()), json!({}));
    }
}
