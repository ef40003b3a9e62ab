//! Namespaces, profiles and identities.

use serde::{Deserialize, Serialize};

/// Whose namespace a pod or container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// Shared by the pod's containers.
    #[default]
    Pod,
    /// Each container's own.
    Container,
    /// The host's.
    Node,
    /// That of the container `target_id`.
    Target,
}

/// One line of a uid or gid map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// The pod's user namespace. Mode `Node` is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// `Pod` or `Node`.
    pub mode: NamespaceMode,
    /// uid map.
    pub uids: Vec<IdMapping>,
    /// gid map.
    pub gids: Vec<IdMapping>,
}

/// NamespaceOption.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOptions {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// `Pod`, `Container`, `Node` or `Target`.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container of mode `Target`.
    pub target_id: String,
    /// User namespace; `None`: the host's.
    pub user: Option<UserNamespace>,
}

impl NamespaceOptions {
    /// The pod's user namespace if it has one of its own.
    pub fn pod_user_namespace(&self) -> Option<&UserNamespace> {
        self.user.as_ref().filter(|user| user.mode == NamespaceMode::Pod)
    }
}

/// How the groups of the image's /etc/group and the request's combine (KEP-3619).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SupplementalGroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only the request's.
    Strict,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProfile {
    /// The runtime's default.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file on the node (seccomp) or a loaded profile (AppArmor).
    Localhost(String),
}

/// Parts of an SELinux label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}
