//! LinuxContainerResources, both ways.

use holdfast_cri::v1;
use holdfast_model::{HugepageLimit, Resources};

use super::{
    Invalid,
    invalid::{each, in_range},
};

/// Limits of a container or a pod. 0 means "not said"; -1 lifts a limit where CRI allows it.
pub fn resources(wire: v1::LinuxContainerResources) -> Result<Resources, Invalid> {
    if wire.cpu_period != 0 {
        // The kernel takes periods from 1 ms to 1 s (Documentation/admin-guide/cgroup-v2.rst, cpu.max).
        in_range("cpu_period", wire.cpu_period, 1_000, 1_000_000)?;
    }
    Ok(Resources {
        cpu_period_us: wire.cpu_period,
        cpu_quota_us: in_range("cpu_quota", wire.cpu_quota, -1, i64::MAX)?,
        cpu_shares: in_range("cpu_shares", wire.cpu_shares, 0, 262_144)?,
        memory_limit_bytes: in_range("memory_limit_in_bytes", wire.memory_limit_in_bytes, -1, i64::MAX)?,
        memory_swap_limit_bytes: in_range(
            "memory_swap_limit_in_bytes",
            wire.memory_swap_limit_in_bytes,
            -1,
            i64::MAX,
        )?,
        oom_score_adj: in_range("oom_score_adj", wire.oom_score_adj, -1000, 1000)?,
        cpuset_cpus: wire.cpuset_cpus,
        cpuset_mems: wire.cpuset_mems,
        hugepage_limits: each("hugepage_limits", wire.hugepage_limits, hugepage_limit)?,
        unified: wire.unified,
    })
}

/// The limits in force, for ContainerStatus.
pub fn resources_to_wire(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period_us,
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|limit| v1::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit_bytes })
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
    }
}

fn hugepage_limit(limit: v1::HugepageLimit) -> Result<HugepageLimit, Invalid> {
    if limit.page_size.is_empty() {
        return Err(Invalid::missing("page_size"));
    }
    Ok(HugepageLimit { page_size: limit.page_size, limit_bytes: limit.limit })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_nothing_is_lost() {
        let wire = v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 2,
            memory_limit_in_bytes: 1 << 40,
            oom_score_adj: -999,
            cpuset_cpus: "0-3".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            memory_swap_limit_in_bytes: -1,
        };
        assert_eq!(resources_to_wire(&resources(wire.clone()).unwrap()), wire);
        let unsaid = v1::LinuxContainerResources::default();
        assert_eq!(resources_to_wire(&resources(unsaid.clone()).unwrap()), unsaid);
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        let none = v1::LinuxContainerResources::default;
        let cases = [
            (
                v1::LinuxContainerResources { memory_limit_in_bytes: -5, ..none() },
                "memory_limit_in_bytes: -5",
            ),
            (v1::LinuxContainerResources { memory_swap_limit_in_bytes: -2, ..none() }, "memory_swap_limit"),
            (v1::LinuxContainerResources { cpu_quota: -2, ..none() }, "cpu_quota: -2"),
            (v1::LinuxContainerResources { cpu_shares: -1, ..none() }, "cpu_shares: -1"),
            (v1::LinuxContainerResources { cpu_period: 999, ..none() }, "cpu_period: 999"),
            (v1::LinuxContainerResources { oom_score_adj: 1001, ..none() }, "oom_score_adj: 1001"),
            (
                v1::LinuxContainerResources { hugepage_limits: vec![v1::HugepageLimit::default()], ..none() },
                "hugepage_limits[0].page_size is missing",
            ),
        ];
        for (wire, expected) in cases {
            let error = resources(wire).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
