//! What CDI devices change in a container (Container Device Interface, SPEC.md of cncf-tags/container-device-interface).
//!
//! The types are those of a spec file and read from it as they stand: an unknown field is an error, null is nothing.

use serde::{Deserialize, Deserializer};

/// `containerEdits`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ContainerEdits {
    /// `KEY=VALUE`; takes the place of a variable that is there.
    #[serde(deserialize_with = "or_nothing")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(deserialize_with = "or_nothing")]
    pub device_nodes: Vec<CdiDeviceNode>,
    /// Interfaces of the host that the container would get.
    #[serde(deserialize_with = "or_nothing")]
    pub net_devices: Vec<CdiNetDevice>,
    /// Hooks of the OCI runtime spec.
    #[serde(deserialize_with = "or_nothing")]
    pub hooks: Vec<CdiHook>,
    /// Mounts.
    #[serde(deserialize_with = "or_nothing")]
    pub mounts: Vec<CdiMount>,
    /// Cache and memory bandwidth.
    pub intel_rdt: Option<CdiIntelRdt>,
    /// Groups that the container's process is in as well; 0 is none. SPEC.md writes the name in both ways.
    #[serde(alias = "additionalGIDs", deserialize_with = "or_nothing")]
    pub additional_gids: Vec<u32>,
}

impl ContainerEdits {
    /// They change nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what others change.
    pub fn append(&mut self, others: &Self) {
        self.env.extend_from_slice(&others.env);
        self.device_nodes.extend_from_slice(&others.device_nodes);
        self.net_devices.extend_from_slice(&others.net_devices);
        self.hooks.extend_from_slice(&others.hooks);
        self.mounts.extend_from_slice(&others.mounts);
        self.additional_gids.extend_from_slice(&others.additional_gids);
        if others.intel_rdt.is_some() {
            self.intel_rdt.clone_from(&others.intel_rdt);
        }
    }
}

/// A device node. What is not said is as it is on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CdiDeviceNode {
    /// Where in the container.
    pub path: String,
    /// Which of the host; empty: `path`.
    #[serde(deserialize_with = "or_nothing")]
    pub host_path: String,
    /// `b`, `c`, `u`, `p` or nothing.
    #[serde(rename = "type", deserialize_with = "or_nothing")]
    pub kind: String,
    /// Major number; 0: not said.
    #[serde(deserialize_with = "or_nothing")]
    pub major: u32,
    /// Minor number.
    #[serde(deserialize_with = "or_nothing")]
    pub minor: u32,
    /// Mode.
    pub file_mode: Option<u32>,
    /// `r`, `w`, `m`; nothing: all of them; `none`.
    #[serde(deserialize_with = "or_nothing")]
    pub permissions: String,
    /// Owner as the container numbers it.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CdiMount {
    /// What of the host.
    pub host_path: String,
    /// Where in the container.
    pub container_path: String,
    /// Options as the OCI runtime spec has them.
    #[serde(deserialize_with = "or_nothing")]
    pub options: Vec<String>,
    /// File system; nothing or `none` for a bind mount.
    #[serde(rename = "type", deserialize_with = "or_nothing")]
    pub kind: String,
}

/// A hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CdiHook {
    /// `createRuntime` ...
    pub hook_name: String,
    /// Program of the host.
    pub path: String,
    /// Its arguments, the name first.
    #[serde(deserialize_with = "or_nothing")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(deserialize_with = "or_nothing")]
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout: Option<i64>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CdiNetDevice {
    /// Its name on the host.
    pub host_interface_name: String,
    /// Its name in the container.
    pub name: String,
}

/// Settings of Linux resctrl.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CdiIntelRdt {
    /// Class of service.
    #[serde(rename = "closID", deserialize_with = "or_nothing")]
    pub clos_id: String,
    /// Schema of the L3 cache.
    #[serde(rename = "l3CacheSchema", deserialize_with = "or_nothing")]
    pub l3_cache_schema: String,
    /// Schema of the memory bandwidth.
    #[serde(deserialize_with = "or_nothing")]
    pub mem_bw_schema: String,
    /// Schemata.
    #[serde(deserialize_with = "or_nothing")]
    pub schemata: Vec<String>,
    /// Monitoring.
    #[serde(deserialize_with = "or_nothing")]
    pub enable_monitoring: bool,
    /// Cache monitoring, before version 1.1.
    #[serde(rename = "enableCMT", deserialize_with = "or_nothing")]
    pub enable_cmt: bool,
    /// Bandwidth monitoring, before version 1.1.
    #[serde(rename = "enableMBM", deserialize_with = "or_nothing")]
    pub enable_mbm: bool,
}

/// For `deserialize_with`: the value, or its default for null.
pub fn or_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}
