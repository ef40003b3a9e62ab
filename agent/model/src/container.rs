//! A container's configuration, as CreateContainer brings it.

use serde::{Deserialize, Serialize};

use crate::{
    IdMapping, Map, NamespaceOptions, Resources, SecurityProfile, SelinuxOptions, SupplementalGroupsPolicy,
};

/// Who the container is within its pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    /// Name within the pod.
    pub name: String,
    /// How often it has been made.
    pub attempt: u32,
}

/// ImageSpec: which image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// Id, digest reference or tag reference.
    pub image: String,
    /// Annotations.
    pub annotations: Map,
    /// What the user wrote in the pod.
    pub user_specified_image: String,
    /// RuntimeClass handler.
    pub runtime_handler: String,
    /// Stable reference to the image's content.
    pub image_ref: String,
}

/// How mounts made on one side show on the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A mount of the host's files, or of an image, into the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What of the host.
    pub host_path: String,
    /// Read-only.
    pub readonly: bool,
    /// Read-only with everything mounted below (KEP-3857).
    pub recursive_read_only: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: MountPropagation,
    /// uid map of an id-mapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// gid map of an id-mapped mount.
    pub gid_mappings: Vec<IdMapping>,
    /// An image instead of a host path (KEP-4639).
    pub image: Option<ImageSpec>,
    /// Path within that image.
    pub image_sub_path: String,
    /// Further options of the mount.
    pub mount_options: Vec<String>,
}

/// A device node of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// Which of the host.
    pub host_path: String,
    /// `r`, `w`, `m`.
    pub permissions: String,
}

/// One environment variable. The value may be any bytes but NUL (CRI 1.37); records keep it as such.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name.
    pub key: String,
    /// Value.
    pub value: Vec<u8>,
}

/// Capabilities to add and to drop; `ALL` stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// To add, with or without `CAP_`.
    pub add: Vec<String>,
    /// To drop.
    pub drop: Vec<String>,
    /// To add and keep across execve of an unprivileged user.
    pub add_ambient: Vec<String>,
}

/// LinuxContainerSecurityContext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecurity {
    /// Capabilities.
    pub capabilities: Capabilities,
    /// All capabilities, all devices, no masks.
    pub privileged: bool,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// SELinux label parts.
    pub selinux: Option<SelinuxOptions>,
    /// Numeric user.
    pub run_as_user: Option<i64>,
    /// Numeric group; needs a user.
    pub run_as_group: Option<i64>,
    /// User by name, looked up in the image.
    pub run_as_username: String,
    /// Read-only root.
    pub readonly_rootfs: bool,
    /// Supplemental groups.
    pub supplemental_groups: Vec<i64>,
    /// How those and the image's groups combine.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// seccomp profile; `None`: the deprecated path field said nothing either.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile.
    pub apparmor: Option<SecurityProfile>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
}

/// ContainerConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Who the container is.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; empty: the image's, or `/`.
    pub working_dir: String,
    /// Environment, after the image's.
    pub envs: Vec<EnvVar>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Fully qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels.
    pub labels: Map,
    /// Annotations.
    pub annotations: Map,
    /// Log file, relative to the pod's log directory.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close it after the first attach.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Security context.
    pub security: ContainerSecurity,
    /// Signal number for stopping; `None`: the image's, or SIGTERM.
    pub stop_signal: Option<i32>,
}
