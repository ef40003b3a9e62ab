//! What the network is told by the agent's configuration.

use std::path::PathBuf;

use holdfast_record::Durable;
use serde::{Deserialize, Serialize};

/// Everything that [`crate::Network::start`] needs to know.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Source of the pods' networks.
    pub mode: Mode,
    /// CNI's configuration and programs.
    pub cni: CniConfig,
    /// The embedded network.
    pub embedded: EmbeddedConfig,
    /// `<root>/network`: pod records, allocations and cached CNI results. Kept over reboots.
    pub state_dir: PathBuf,
    /// Where network namespaces are pinned for CNI plugins (`/run/netns`).
    pub netns_dir: PathBuf,
    /// Makes the records durable.
    pub durable: Durable,
    /// `/proc/sys/kernel/random/boot_id`: records of another boot describe nothing that still exists.
    pub boot_id: String,
}

/// `[network] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI plugins. Without a configuration the network is not ready, so that a node takes no pods before its network
    /// add-on has written one: what they got would be another network, for as long as they live.
    Cni,
    /// The embedded network, whatever CNI configuration there is.
    Embedded,
    /// The embedded network until a CNI configuration was ever loaded, CNI from then on: over restarts, and also when the
    /// configuration goes away again.
    Auto,
}

/// `[network.cni]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConfig {
    /// Directory of the configuration lists; the first file by name counts, as in libcni.
    pub conf_dir: PathBuf,
    /// Directories of the plugins, searched in this order.
    pub bin_dirs: Vec<PathBuf>,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
        }
    }
}

/// `[network.embedded]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Name of the bridge and of the nftables table, at most 15 bytes.
    pub bridge: String,
    /// Subnets in CIDR notation, at most one of each family; the first one's family is the pods' primary.
    pub subnets: Vec<String>,
    /// MTU in bytes of bridge and pods; `None`: that of the interface with the host's default route, or 1500.
    pub mtu: Option<u32>,
}

impl Default for EmbeddedConfig {
    /// Subnets apart from those of Docker (172.17), podman (10.88, 10.89), k3s (10.42, 10.43), kubeadm (10.96) and
    /// flannel (10.244); the IPv6 one is a unique local prefix that spells "Hold" (RFC 4193).
    fn default() -> Self {
        Self {
            bridge: "holdfast0".to_owned(),
            subnets: vec!["10.79.0.0/16".to_owned(), "fd48:6f6c:6466::/64".to_owned()],
            mtu: None,
        }
    }
}
