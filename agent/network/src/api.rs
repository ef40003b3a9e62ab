//! What goes in and out of [`crate::Network`].

use std::{net::IpAddr, os::fd::OwnedFd, path::PathBuf};

use holdfast_model::{DnsConfig, Map, PodId, PortMapping};

/// A pod that wants a network.
#[derive(Debug)]
pub struct AddRequest {
    /// Id of the sandbox.
    pub pod: PodId,
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// The pod's network namespace. The embedded network closes it when ADD is done; for CNI it is pinned first.
    pub netns: OwnedFd,
    /// Host name of the pod.
    pub hostname: String,
    /// Host ports; those with `host_port` 0 are left out.
    pub port_mappings: Vec<PortMapping>,
    /// Annotations of the pod (CNI's bandwidth capability reads `kubernetes.io/ingress-bandwidth` from them).
    pub annotations: Map,
    /// Name resolution, for CNI's dns capability.
    pub dns: DnsConfig,
    /// The pod's cgroup as the client named its parent, for CNI's cgroupPath capability.
    pub cgroup_path: Option<String>,
}

/// The network that a pod has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodNetwork {
    /// Addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Result of the CNI chain; `None` for the embedded network.
    pub cni_result: Option<serde_json::Value>,
    /// Name of the interface inside the pod.
    pub ifname: String,
    /// Where the network namespace is pinned; CNI only.
    pub netns_path: Option<PathBuf>,
}

/// A DEL that has failed or takes long. It is tried again until it is done; until then it holds the pod's host ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedDel {
    /// Id of the sandbox, which may have been removed since.
    pub pod: PodId,
    /// `metadata.name` of the pod; empty: not known.
    pub name: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// When it was asked for, in seconds since the epoch.
    pub since_s: u64,
    /// How often it has failed.
    pub tries: u32,
    /// Why, the last time; empty: the first try is under way.
    pub error: String,
    /// Host ports that nobody else gets before it is done, like `tcp *:80`.
    pub host_ports: Vec<String>,
}

/// CRI's NetworkReady condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Whether pods can have a network now.
    pub ready: bool,
    /// One word in CamelCase; empty when ready.
    pub reason: String,
    /// What is wrong and what to change; empty when ready.
    pub message: String,
}

impl NetworkStatus {
    pub(crate) fn ready() -> Self {
        Self { ready: true, reason: String::new(), message: String::new() }
    }

    pub(crate) fn not_ready(reason: &str, message: String) -> Self {
        Self { ready: false, reason: reason.to_owned(), message }
    }
}

/// Counters of one interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterfaceStats {
    /// Name inside the pod.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Send errors.
    pub tx_errors: u64,
}
