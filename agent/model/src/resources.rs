//! LinuxContainerResources.

use serde::{Deserialize, Serialize};

use crate::Map;

/// A limit of huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`: the name in the kernel's files.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// What a container may use. 0 and empty mean "not said".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period_us: i64,
    /// CFS quota in microseconds; -1: none.
    pub cpu_quota_us: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Memory limit in bytes; -1: none.
    pub memory_limit_bytes: i64,
    /// Memory plus swap limit in bytes; -1: none.
    pub memory_swap_limit_bytes: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs, as in `0-3,5`.
    pub cpuset_cpus: String,
    /// NUMA nodes.
    pub cpuset_mems: String,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files by name.
    pub unified: Map,
}
