//! Limits as properties of systemd units (org.freedesktop.systemd1(5), systemd.resource-control(5)).
//!
//! What has a property is set by it, or systemd would write its own value back at the next `daemon-reload`; afterwards
//! the same values, and what has no property, are written to the files.

use cgroups_rs::systemd::{
    ALLOWED_CPUS, ALLOWED_MEMORY_NODES, CPU_QUOTA_PER_SEC_US, CPU_QUOTA_PERIOD_US, CPU_SHARES, CPU_WEIGHT,
    MEMORY_LIMIT, MEMORY_LOW, MEMORY_MAX, MEMORY_SWAP_MAX, TASKS_MAX, WANTS, cpuset,
    props::PropertiesBuilder,
};
use holdfast_model::{DeviceRule, Resources};
use zbus::zvariant::Value;

use crate::{
    Error, Mode, devices::Written as _, limits::shares_to_weight, limits_v2::swap_max, location::Unit, parse,
    systemd::Property,
};

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;
/// The kernel's, of a new group.
const DEFAULT_PERIOD_US: i64 = 100_000;
/// systemd keeps quotas as whole percents: rounded up, so that the exact value fits within.
const PERCENT_US: u64 = 10_000;

/// A new scope with one process in it, or a slice without.
pub(crate) fn unit(unit: &Unit, pid: Option<i32>) -> Vec<Property> {
    let mut builder = PropertiesBuilder::default_cgroup(&unit.slice, &unit.name)
        .description(format!("Holdfast {}", unit.name));
    if let Some(pid) = pid {
        builder = builder.pids(vec![pid as u32]);
    }
    let mut properties = builder.build();
    // cgroups-rs writes one name where systemd wants a list of them.
    for (name, value) in &mut properties {
        if *name == WANTS {
            *value = Value::from(vec![unit.slice.clone()]);
        }
    }
    // A scope that failed is forgotten as well: nobody would ask for it again.
    properties.push(("CollectMode", Value::from("inactive-or-failed")));
    properties
}

/// Limits that are asked for; `now` tells what an update may leave unsaid.
pub(crate) fn limits(
    asked: &Resources,
    now: &Resources,
    pids_limit: Option<i64>,
    mode: Mode,
) -> Result<Vec<Property>, Error> {
    let mut properties: Vec<Property> = Vec::new();
    let mut number = |name, value: u64| properties.push((name, Value::from(value)));
    let finite = |value: i64| if value < 0 { INFINITY } else { value as u64 };
    let v2 = mode == Mode::V2;
    match asked.cpu_shares {
        0 => {}
        shares if v2 => number(CPU_WEIGHT, shares_to_weight(shares as u64)),
        shares => number(CPU_SHARES, shares as u64),
    }
    if asked.cpu_quota_us != 0 || asked.cpu_period_us != 0 {
        let first = |one: i64, other: i64| if one == 0 { other } else { one };
        let period = first(first(asked.cpu_period_us, now.cpu_period_us), DEFAULT_PERIOD_US);
        number(CPU_QUOTA_PER_SEC_US, per_second(first(asked.cpu_quota_us, now.cpu_quota_us), period));
        number(CPU_QUOTA_PERIOD_US, period as u64);
    }
    if asked.memory_limit_bytes != 0 {
        number(if v2 { MEMORY_MAX } else { MEMORY_LIMIT }, finite(asked.memory_limit_bytes));
    }
    if v2 {
        let current = u64::try_from(now.memory_limit_bytes).ok();
        if let Some(swap) = swap_max(asked.memory_limit_bytes, asked.memory_swap_limit_bytes, current)? {
            number(MEMORY_SWAP_MAX, swap.parse().unwrap_or(INFINITY));
        }
        for (key, value) in &asked.unified {
            if let (Some(name), Some(value)) = (unified_name(key), unified_value(value)) {
                number(name, value);
            }
        }
    }
    if let Some(limit) = pids_limit {
        number(TASKS_MAX, finite(limit));
    }
    if v2 {
        for (name, list) in [(ALLOWED_CPUS, &asked.cpuset_cpus), (ALLOWED_MEMORY_NODES, &asked.cpuset_mems)] {
            if !list.is_empty() {
                properties.push((name, Value::from(mask(list)?)));
            }
        }
    }
    Ok(properties)
}

fn per_second(quota: i64, period: i64) -> u64 {
    if quota <= 0 {
        return INFINITY;
    }
    let exact = (quota as u128 * 1_000_000).div_ceil(period.max(1) as u128);
    u64::try_from(exact).map_or(INFINITY, |exact| exact.next_multiple_of(PERCENT_US))
}

fn unified_name(key: &str) -> Option<&'static str> {
    Some(match key {
        "cpu.weight" => CPU_WEIGHT,
        "memory.min" => "MemoryMin",
        "memory.low" => MEMORY_LOW,
        "memory.high" => "MemoryHigh",
        "memory.max" => MEMORY_MAX,
        "memory.swap.max" => MEMORY_SWAP_MAX,
        "memory.zswap.max" => "MemoryZSwapMax",
        "pids.max" => TASKS_MAX,
        _ => return None,
    })
}

fn unified_value(value: &str) -> Option<u64> {
    if value.trim() == "max" { Some(INFINITY) } else { value.trim().parse().ok() }
}

/// cgroups-rs turns the list into systemd's mask, most significant byte first; systemd wants the least first.
fn mask(list: &str) -> Result<Vec<u8>, Error> {
    // Checked before: the conversion itself would allocate for any number.
    let invalid = || Error::invalid("cpuset", list, "is not a list such as 0-3,5");
    parse::cpuset(list).ok_or_else(invalid)?;
    let (_, mut mask) = cpuset::cpus(list).map_err(|_| invalid())?;
    mask.reverse();
    Ok(mask)
}

/// v1: systemd writes `a` to devices.allow at every reload unless it knows the list. On v2 our program stays beside its.
pub(crate) fn devices(rules: &[DeviceRule], mode: Mode, proc_devices: &str) -> Vec<Property> {
    if mode == Mode::V2 || rules.is_empty() || rules.contains(&DeviceRule::ALL) {
        return Vec::new();
    }
    let allowed: Vec<(String, String)> = rules
        .iter()
        .filter_map(|rule| Some((rule.systemd_name(proc_devices)?, rule.permissions())))
        .collect();
    vec![("DevicePolicy", Value::from("strict")), ("DeviceAllow", Value::from(allowed))]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::DeviceKind;

    fn find(properties: &[Property], name: &str) -> Option<u64> {
        properties
            .iter()
            .find(|property| property.0 == name)
            .map(|property| property.1.clone().try_into().unwrap())
    }

    #[test]
    fn what_a_slice_wants_is_a_list() {
        let slice = Unit { name: "a-b.slice".into(), slice: "a.slice".into() };
        let wants = unit(&slice, None).into_iter().find(|property| property.0 == WANTS);
        assert_eq!(wants.unwrap().1, Value::from(vec!["a.slice".to_owned()]));
    }

    #[test]
    fn limits_of_v2() {
        let asked = Resources {
            cpu_shares: 1024,
            cpu_quota_us: 12_345,
            cpu_period_us: 100_000,
            memory_limit_bytes: 100,
            memory_swap_limit_bytes: 100,
            cpuset_cpus: "0-1,9".into(),
            unified: [
                ("memory.high".to_owned(), "max".to_owned()),
                ("memory.oom.group".to_owned(), "1".to_owned()),
            ]
            .into(),
            ..Resources::default()
        };
        let found = limits(&asked, &Resources::default(), Some(-1), Mode::V2).unwrap();
        assert_eq!(find(&found, "CPUWeight"), Some(100));
        assert_eq!(find(&found, "CPUQuotaPerSecUSec"), Some(130_000));
        assert_eq!(find(&found, "CPUQuotaPeriodUSec"), Some(100_000));
        assert_eq!((find(&found, "MemoryMax"), find(&found, "MemorySwapMax")), (Some(100), Some(0)));
        assert_eq!((find(&found, "TasksMax"), find(&found, "MemoryHigh")), (Some(u64::MAX), Some(u64::MAX)));
        let cpus = &found.iter().find(|property| property.0 == "AllowedCPUs").unwrap().1;
        assert_eq!(Vec::<u8>::try_from(cpus.clone()).unwrap(), [0b11, 0b10]);
    }

    #[test]
    fn limits_of_v1_and_partial_updates() {
        let asked =
            Resources { cpu_shares: 512, memory_limit_bytes: -1, cpu_quota_us: -1, ..Resources::default() };
        let found = limits(&asked, &Resources::default(), None, Mode::Hybrid).unwrap();
        assert_eq!((find(&found, "CPUShares"), find(&found, "MemoryLimit")), (Some(512), Some(u64::MAX)));
        assert_eq!((find(&found, "CPUQuotaPerSecUSec"), find(&found, "TasksMax")), (Some(u64::MAX), None));
        let now = Resources { cpu_period_us: 50_000, memory_limit_bytes: 80, ..Resources::default() };
        let asked = Resources { cpu_quota_us: 50_000, memory_swap_limit_bytes: 100, ..Resources::default() };
        let found = limits(&asked, &now, None, Mode::V2).unwrap();
        assert_eq!(
            (find(&found, "CPUQuotaPerSecUSec"), find(&found, "MemorySwapMax")),
            (Some(1_000_000), Some(20))
        );
        assert!(limits(&Resources::default(), &now, None, Mode::V2).unwrap().is_empty());
    }

    #[test]
    fn devices_for_v1_only() {
        let proc_devices = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let rules = DeviceRule::defaults();
        let found = devices(&rules, Mode::V1, proc_devices);
        let list = Vec::<(String, String)>::try_from(found[1].1.clone()).unwrap();
        let has = |name: &str, access: &str| list.contains(&(name.to_owned(), access.to_owned()));
        assert!(
            has("/dev/char/1:3", "rwm")
                && has("char-pts", "rwm")
                && has("char-*", "m")
                && has("block-*", "m")
        );
        assert!(devices(&rules, Mode::V2, proc_devices).is_empty());
        assert!(devices(&[DeviceRule::ALL], Mode::V1, proc_devices).is_empty());
        let odd = DeviceRule { minor: None, ..DeviceRule::device(DeviceKind::Block, 99, 0) };
        assert_eq!(odd.systemd_name(proc_devices), None);
    }
}
