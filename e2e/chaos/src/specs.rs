//! Messages of CRI for pods and containers of a shape.

use std::{collections::BTreeMap, path::Path};

use holdfast_cri::v1;
use holdfast_e2e::scene::BUSYBOX;

use crate::plan::{Network, PodShape};

/// The label that tells this run's pods from all others.
pub const LABEL: &str = "chaos";

/// A pod with its own network, one pid namespace for each container, and nothing else.
pub const PLAIN: PodShape =
    PodShape { network: Network::Pod, host_port: None, user_namespace: None, shared_pid: false };

/// A pod on the node's network.
pub const ON_HOST: PodShape = PodShape { network: Network::Host, ..PLAIN };

/// A pod. `uid` is its name as well; its logs lie in `logs`/`uid`.
pub fn pod(
    shape: PodShape,
    uid: &str,
    attempt: u32,
    logs: &Path,
    cgroup_parent: &str,
) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: uid.into(),
            uid: uid.into(),
            namespace: "chaos".into(),
            attempt,
        }),
        // As a kubelet does it: a pod on the node's network has the node's name.
        hostname: if shape.network == Network::Pod { uid.into() } else { String::new() },
        log_directory: logs.join(uid).to_string_lossy().into_owned(),
        port_mappings: shape.host_port.map(port_mapping).into_iter().collect(),
        labels: BTreeMap::from([(LABEL.to_owned(), uid.to_owned())]),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.into(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(shape)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs `sh -c script`; its log is `<name>.<attempt>.log`.
pub fn container(shape: PodShape, name: &str, attempt: u32, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt }),
        image: Some(image(BUSYBOX)),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: log_path(name, attempt),
        linux: Some(v1::LinuxContainerConfig {
            resources: None,
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(shape)),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Where a container's log lies below its pod's directory.
pub fn log_path(name: &str, attempt: u32) -> String {
    format!("{name}.{attempt}.log")
}

/// An image by its name.
pub fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.into(), ..Default::default() }
}

/// Resources with only a memory limit, in bytes.
pub fn memory(bytes: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        memory_swap_limit_in_bytes: bytes,
        ..Default::default()
    }
}

fn port_mapping(host_port: u16) -> v1::PortMapping {
    v1::PortMapping { container_port: 80, host_port: host_port.into(), ..Default::default() }
}

fn namespaces(shape: PodShape) -> v1::NamespaceOption {
    let network = match shape.network {
        Network::Host => v1::NamespaceMode::Node,
        Network::Pod => v1::NamespaceMode::Pod,
    };
    let pid = if shape.shared_pid { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    let mapping = |host_id| vec![v1::IdMapping { host_id, container_id: 0, length: 65_536 }];
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        userns_options: shape.user_namespace.map(|first| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: mapping(first),
            gids: mapping(first),
        }),
        ..Default::default()
    }
}
