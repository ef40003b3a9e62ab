//! A pod sandbox's configuration, as RunPodSandbox brings it.

use serde::{Deserialize, Serialize};

use crate::{Map, NamespaceOptions, Resources, SecurityProfile, SelinuxOptions, SupplementalGroupsPolicy};

/// Who the pod is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    /// `metadata.name` of the pod.
    pub name: String,
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// `metadata.namespace` of the pod.
    pub namespace: String,
    /// How often the kubelet has tried to make this sandbox.
    pub attempt: u32,
}

/// /etc/resolv.conf of the pod. Empty means: a copy of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` domains.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

impl DnsConfig {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.searches.is_empty() && self.options.is_empty()
    }
}

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host that leads to one of the pod. `host_port` 0 means: none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the host; 0: not mapped.
    pub host_port: u16,
    /// Address on the host; empty: all addresses.
    pub host_ip: String,
}

/// LinuxSandboxSecurityContext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSecurity {
    /// Which namespaces the pod has of its own.
    pub namespaces: NamespaceOptions,
    /// SELinux label parts.
    pub selinux: Option<SelinuxOptions>,
    /// Numeric user of the sandbox's own process.
    pub run_as_user: Option<i64>,
    /// Numeric group of the sandbox's own process.
    pub run_as_group: Option<i64>,
    /// Read-only root.
    pub readonly_rootfs: bool,
    /// Supplemental groups.
    pub supplemental_groups: Vec<i64>,
    /// How those and the image's groups combine.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether any container of the pod may be privileged.
    pub privileged: bool,
    /// seccomp profile.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile.
    pub apparmor: Option<SecurityProfile>,
}

/// PodSandboxConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Who the pod is.
    pub metadata: PodSandboxMetadata,
    /// Host name; empty for host network.
    pub hostname: String,
    /// Directory of the containers' log files on the host.
    pub log_directory: String,
    /// Name resolution.
    pub dns: DnsConfig,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: Map,
    /// Annotations.
    pub annotations: Map,
    /// Parent cgroup: a cgroupfs path, or a slice name with the systemd driver; empty: the agent's default.
    pub cgroup_parent: String,
    /// Sysctls of the pod's namespaces.
    pub sysctls: Map,
    /// What the pod costs beyond its containers (informational).
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources (informational).
    pub resources: Option<Resources>,
    /// Security context.
    pub security: SandboxSecurity,
}
