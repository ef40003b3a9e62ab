//! Limits: checked by themselves, and written into the spec for those who read it. The cgroup package applies them.

use holdfast_model::{DeviceRule, Resources};
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use crate::{
    devices::oci_rules,
    error::{SpecError, invalid},
    oci, text,
};

const FIELD: &str = "linux.resources";

/// Checks that no number lies where no kernel takes it.
pub fn check(resources: &Resources) -> Result<(), SpecError> {
    let Resources {
        cpu_period_us,
        cpu_quota_us,
        cpu_shares,
        memory_limit_bytes,
        memory_swap_limit_bytes,
        ..
    } = resources;
    for (name, value, least) in [
        ("cpu_period", *cpu_period_us, 0),
        ("cpu_quota", *cpu_quota_us, -1),
        ("cpu_shares", *cpu_shares, 0),
        ("memory_limit_in_bytes", *memory_limit_bytes, -1),
        ("memory_swap_limit_in_bytes", *memory_swap_limit_bytes, -1),
    ] {
        if value < least {
            let advice = if least == -1 { "; -1 stands for no limit" } else { "" };
            return Err(invalid(format!("{FIELD}.{name}"), format!("{value} is negative{advice}")));
        }
    }
    if *memory_swap_limit_bytes > 0 && *memory_swap_limit_bytes < *memory_limit_bytes {
        let problem = "is below memory_limit_in_bytes, which it includes: raise it";
        return Err(invalid(format!("{FIELD}.memory_swap_limit_in_bytes"), problem));
    }
    oom_score_adj(resources)?;
    for (name, list) in [("cpuset_cpus", &resources.cpuset_cpus), ("cpuset_mems", &resources.cpuset_mems)] {
        if list.chars().any(|c| !c.is_ascii_digit() && !matches!(c, '-' | ',')) {
            return Err(invalid(format!("{FIELD}.{name}"), format!("{list:?} is no list like 0-3,5")));
        }
    }
    for limit in &resources.hugepage_limits {
        if limit.page_size.is_empty() || !limit.page_size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let problem = format!("{:?} is no size like 2MB", limit.page_size);
            return Err(invalid(format!("{FIELD}.hugepage_limits.page_size"), problem));
        }
    }
    for (name, value) in &resources.unified {
        let field = format!("{FIELD}.unified[{name:?}]");
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if name.is_empty() || !name.bytes().all(legal) || !name.contains('.') {
            return Err(invalid(field, "is no file of a cgroup: write it like memory.high"));
        }
        text::no_zero(&field, value.as_bytes())?;
    }
    Ok(())
}

/// The OOM score adjustment.
pub fn oom_score_adj(resources: &Resources) -> Result<i32, SpecError> {
    let value = resources.oom_score_adj;
    let fits = i32::try_from(value).ok().filter(|value| (-1000..=1000).contains(value));
    fits.ok_or_else(|| {
        invalid(format!("{FIELD}.oom_score_adj"), format!("{value} is not from -1000 to 1000"))
    })
}

/// The spec's form.
pub fn to_oci(resources: &Resources, devices: &[DeviceRule]) -> LinuxResources {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value != 0);
    let said = |value: i64| Some(value).filter(|value| *value != 0);
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut cpu = LinuxCpu::default();
    cpu.set_period(positive(resources.cpu_period_us))
        .set_quota(said(resources.cpu_quota_us))
        .set_shares(positive(resources.cpu_shares))
        .set_cpus(text(&resources.cpuset_cpus))
        .set_mems(text(&resources.cpuset_mems));
    let mut memory = LinuxMemory::default();
    memory.set_limit(said(resources.memory_limit_bytes)).set_swap(said(resources.memory_swap_limit_bytes));
    let page = |limit: &holdfast_model::HugepageLimit| {
        let mut page = LinuxHugepageLimit::default();
        page.set_page_size(limit.page_size.clone());
        page.set_limit(i64::try_from(limit.limit_bytes).unwrap_or(i64::MAX));
        page
    };
    let mut all = oci::resources();
    all.set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
        .set_memory(Some(memory).filter(|memory| *memory != LinuxMemory::default()))
        .set_devices(Some(oci_rules(devices)));
    if !resources.hugepage_limits.is_empty() {
        all.set_hugepage_limits(Some(resources.hugepage_limits.iter().map(page).collect()));
    }
    if !resources.unified.is_empty() {
        all.set_unified(Some(resources.unified.clone().into_iter().collect()));
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::HugepageLimit;

    #[test]
    fn what_the_kubelet_sends_passes() {
        let resources = Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: -1,
            cpu_shares: 2,
            memory_limit_bytes: 1 << 30,
            memory_swap_limit_bytes: 1 << 30,
            oom_score_adj: -997,
            cpuset_cpus: "0-3,5".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        check(&resources).unwrap();
        let oci = to_oci(&resources, &[]);
        assert_eq!(oci.cpu().as_ref().unwrap().quota(), Some(-1));
        assert_eq!(oci.memory().as_ref().unwrap().limit(), Some(1 << 30));
        assert_eq!(oci.unified().as_ref().unwrap()["memory.oom.group"], "1");
        let empty = serde_json::to_value(to_oci(&Resources::default(), &[])).unwrap();
        assert_eq!(empty, serde_json::json!({ "devices": [{ "allow": false, "access": "rwm" }] }));
    }

    #[test]
    fn what_is_refused() {
        let base = Resources::default;
        for (resources, part) in [
            (Resources { cpu_period_us: -1, ..base() }, "cpu_period"),
            (Resources { cpu_quota_us: -2, ..base() }, "cpu_quota"),
            (Resources { cpu_shares: -5, ..base() }, "cpu_shares"),
            (Resources { memory_limit_bytes: -2, ..base() }, "memory_limit_in_bytes"),
            (Resources { memory_swap_limit_bytes: -9, ..base() }, "memory_swap_limit_in_bytes"),
            (Resources { memory_limit_bytes: 2, memory_swap_limit_bytes: 1, ..base() }, "swap"),
            (Resources { oom_score_adj: 1001, ..base() }, "oom_score_adj"),
            (Resources { oom_score_adj: i64::MIN, ..base() }, "oom_score_adj"),
            (Resources { cpuset_cpus: "0\n1".into(), ..base() }, "cpuset_cpus"),
            (Resources { cpuset_mems: "a".into(), ..base() }, "cpuset_mems"),
            (Resources { unified: [("../x.y".into(), "1".into())].into(), ..base() }, "unified"),
            (Resources { unified: [("cgroup".into(), "1".into())].into(), ..base() }, "unified"),
            (
                Resources {
                    hugepage_limits: vec![HugepageLimit { page_size: "../2MB".into(), limit_bytes: 1 }],
                    ..base()
                },
                "hugepage_limits",
            ),
        ] {
            let error = check(&resources).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
