//! Requests and limits as numbers for the kernel, as a kubelet makes them (kubelet, cm/helpers_linux.go and
//! qos/policy.go).

use holdfast_model::{HugepageLimit, Resources};

use super::types::{Container, Pod};

const PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota.
const MIN_QUOTA_US: u64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// How much a pod has been promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// All that it may have.
    Guaranteed,
    /// Some of it.
    Burstable,
    /// Nothing.
    BestEffort,
}

/// What a node has to do with limits.
#[derive(Debug, Clone, Copy)]
pub struct NodeLimits {
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Swap can be limited, and then is: a memory limit counts all that a container uses.
    pub limits_swap: bool,
}

/// Which class a pod is in.
pub fn qos(pod: &Pod) -> Qos {
    let resources = || pod.all_containers().map(|container| &container.resources);
    let asks = |value: Option<u64>| value.is_some_and(|value| value > 0);
    let nothing = resources().all(|r| {
        let all = [r.cpu_request_m, r.cpu_limit_m, r.memory_request_bytes, r.memory_limit_bytes];
        !all.into_iter().any(asks)
    });
    let whole = resources().all(|r| {
        asks(r.cpu_limit_m)
            && asks(r.memory_limit_bytes)
            && r.cpu_request_m == r.cpu_limit_m
            && r.memory_request_bytes == r.memory_limit_bytes
    });
    match (nothing, whole) {
        (true, _) => Qos::BestEffort,
        (_, true) => Qos::Guaranteed,
        _ => Qos::Burstable,
    }
}

/// Whom the OOM killer takes first: those who were promised nothing.
pub fn oom_score_adj(qos: Qos, container: &Container, memory_bytes: u64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = u128::from(container.resources.memory_request_bytes.unwrap_or(0));
            let part = request * 1000 / u128::from(memory_bytes.max(1));
            (1000 - part.min(1000) as i64).clamp(3, 999)
        }
    }
}

/// LinuxContainerResources.
pub fn resources(qos: Qos, container: &Container, node: NodeLimits) -> Resources {
    let asked = &container.resources;
    let memory = asked.memory_limit_bytes.unwrap_or(0) as i64;
    let quota = asked.cpu_limit_m.filter(|cpu| *cpu > 0).map(quota_us);
    Resources {
        cpu_period_us: quota.map_or(0, |_| PERIOD_US as i64),
        cpu_quota_us: quota.unwrap_or(0),
        cpu_shares: shares(asked.cpu_request_m.unwrap_or(0)),
        memory_limit_bytes: memory,
        memory_swap_limit_bytes: if node.limits_swap { memory } else { 0 },
        oom_score_adj: oom_score_adj(qos, container, node.memory_bytes),
        hugepage_limits: asked.hugepages.iter().map(|(size, limit)| hugepages(*size, *limit)).collect(),
        ..Resources::default()
    }
}

fn quota_us(cpu_m: u64) -> i64 {
    let quota = u128::from(cpu_m) * u128::from(PERIOD_US) / 1000;
    quota.clamp(u128::from(MIN_QUOTA_US), i64::MAX as u128) as i64
}

fn shares(cpu_m: u64) -> i64 {
    let shares = u128::from(cpu_m) * 1024 / 1000;
    shares.clamp(u128::from(MIN_SHARES), u128::from(MAX_SHARES)) as i64
}

/// The kernel's names of page sizes: `64KB`, `2MB`, `1GB`.
fn hugepages(size: u64, limit_bytes: u64) -> HugepageLimit {
    let units = [(30, "GB"), (20, "MB"), (10, "KB")];
    let fits = units.into_iter().find(|(shift, _)| size >= 1 << shift);
    let page_size = fits.map_or(format!("{size}B"), |(shift, unit)| format!("{}{unit}", size >> shift));
    HugepageLimit { page_size, limit_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_quotas_are_a_kubelets() {
        for (cpu_m, expected_shares, expected_quota) in [
            (0, 2, 1000),
            (1, 2, 1000),
            (100, 102, 10_000),
            (500, 512, 50_000),
            (1000, 1024, 100_000),
            (2500, 2560, 250_000),
            (u64::MAX, 262_144, i64::MAX),
        ] {
            assert_eq!((shares(cpu_m), quota_us(cpu_m)), (expected_shares, expected_quota), "{cpu_m}");
        }
    }

    #[test]
    fn page_sizes_have_the_kernels_names() {
        for (size, name) in [(1 << 16, "64KB"), (2 << 20, "2MB"), (1 << 30, "1GB"), (512 << 20, "512MB")] {
            assert_eq!(hugepages(size, 0).page_size, name);
        }
    }
}
