//! Configurations of pods and containers, as crictl reads them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A number that no other call of this process got.
pub fn unique() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A pod with its own net, ipc, uts and container-wise pid namespaces; logs under `dir`.
pub fn pod(dir: &Path, name: &str) -> Value {
    let number = unique();
    json!({
        "metadata": {"name": name, "namespace": "e2e", "uid": format!("uid-{}-{number}", std::process::id()), "attempt": 0},
        "hostname": name,
        "log_directory": dir.join(format!("logs/{name}-{number}")),
        "labels": {"app": name},
        "linux": {"security_context": {"namespace_options": {"pid": PID_CONTAINER}}},
    })
}

/// `NamespaceMode`: POD.
pub const PID_POD: u32 = 0;
/// `NamespaceMode`: CONTAINER.
pub const PID_CONTAINER: u32 = 1;
/// `NamespaceMode`: NODE.
pub const NODE: u32 = 2;
/// `NamespaceMode`: TARGET.
pub const PID_TARGET: u32 = 3;

/// A container of an image that runs a command.
pub fn container(name: &str, image: &str, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "attempt": 0},
        "image": {"image": image},
        "command": command,
        "log_path": format!("{name}.log"),
        "labels": {"part": name},
        "linux": {"security_context": {"namespace_options": {"pid": PID_CONTAINER}}},
    })
}

/// A container that runs until it is told to end, and then ends at once.
pub fn sleeper(name: &str, image: &str) -> Value {
    container(name, image, &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"])
}

/// Gives a pod a user namespace with the kubelet's usual mapping.
pub fn with_user_namespace(pod: &mut Value, host_id: u32) {
    let mapping = json!([{"container_id": 0, "host_id": host_id, "length": 65536}]);
    pod["linux"]["security_context"]["namespace_options"]["userns_options"] =
        json!({"mode": 0, "uids": mapping, "gids": mapping});
}

/// Writes a configuration for crictl and returns its path.
pub fn write(dir: &Path, value: &Value) -> Result<PathBuf> {
    let path = dir.join(format!("config-{}.json", unique()));
    fs::write(&path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
