//! Limits as properties of systemd units (org.freedesktop.systemd1(5), systemd.resource-control(5)).
//!
//! What has a property is set by it, or systemd would write its own value back at the next `daemon-reload`; afterwards
//! the same values, and what has no property, are written to the files.

use std::os::fd::BorrowedFd;

use cgroups_rs::systemd::{
    ALLOWED_CPUS, ALLOWED_MEMORY_NODES, CPU_QUOTA_PER_SEC_US, CPU_QUOTA_PERIOD_US, CPU_SHARES, CPU_WEIGHT,
    MEMORY_LIMIT, MEMORY_LOW, MEMORY_MAX, MEMORY_SWAP_MAX, PIDS, TASKS_MAX, WANTS, cpuset,
    props::PropertiesBuilder,
};
use holdfast_model::{DeviceRule, Resources};
use zbus::zvariant::{Fd, Value};

use crate::{
    Error, Mode, devices::Written as _, limits::shares_to_weight, limits_v2::swap_max, location::Unit, parse,
    systemd::Property,
};

/// systemd's word for no limit, and for no weight of its own.
const INFINITY: u64 = u64::MAX;
/// systemd's CPUWeight=idle.
const IDLE: u64 = 0;
/// The kernel's, of a new group.
const DEFAULT_PERIOD_US: i64 = 100_000;
/// systemd keeps quotas as whole percents: rounded up, so that the exact value fits within.
const PERCENT_US: u64 = 10_000;

/// Facts that decide which properties there are: an unknown one would be refused with all the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub mode: Mode,
    /// systemd's.
    pub version: u32,
}

impl Known {
    /// By the NEWS of systemd, where it is younger than cgroup v2 itself.
    fn has(self, property: &str) -> bool {
        let since = match property {
            "MemoryMin" => 240,
            CPU_QUOTA_PERIOD_US => 242,
            ALLOWED_CPUS | ALLOWED_MEMORY_NODES => 244,
            "MemoryZSwapMax" => 253,
            PIDFDS => 254,
            _ => 0,
        };
        self.version >= since
    }

    /// CPUWeight=idle.
    fn has_idle(self) -> bool {
        self.version >= 252
    }
}

const PIDFDS: &str = "PIDFDs";

/// A new scope or slice.
pub(crate) fn unit(unit: &Unit) -> Vec<Property> {
    let builder = PropertiesBuilder::default_cgroup(&unit.slice, &unit.name)
        .description(format!("Holdfast {}", unit.name));
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

/// The process of a new scope: by its descriptor where systemd takes that.
pub(crate) fn process(pid: i32, pidfd: BorrowedFd<'_>, known: Known) -> Result<Property, Error> {
    if !known.has(PIDFDS) {
        return Ok((PIDS, Value::from(vec![pid.unsigned_abs()])));
    }
    let own = pidfd
        .try_clone_to_owned()
        .map_err(|source| Error::io("duplicate the pidfd of", "stage 1", source))?;
    Ok((PIDFDS, Value::from(vec![Fd::from(own)])))
}

/// Limits that are asked for; `now` tells what an update may leave unsaid.
pub(crate) fn limits(
    asked: &Resources,
    now: &Resources,
    pids_limit: Option<i64>,
    known: Known,
) -> Result<Vec<Property>, Error> {
    let mut properties: Vec<Property> = Vec::new();
    let mut number = |name, value: u64| properties.push((name, Value::from(value)));
    let v2 = known.mode == Mode::V2;
    if v2 && known.has_idle() && asked.unified.get("cpu.idle").is_some_and(|idle| idle.trim() == "0") {
        // No weight of its own instead of CPUWeight=idle; one that is asked for counts.
        number(CPU_WEIGHT, INFINITY);
    }
    match asked.cpu_shares {
        0 => {}
        shares if v2 => number(CPU_WEIGHT, shares_to_weight(shares as u64)),
        shares => number(CPU_SHARES, shares as u64),
    }
    if asked.cpu_quota_us != 0 || asked.cpu_period_us != 0 {
        let first = |one: i64, other: i64| if one == 0 { other } else { one };
        let period = first(first(asked.cpu_period_us, now.cpu_period_us), DEFAULT_PERIOD_US);
        let quota = first(asked.cpu_quota_us, now.cpu_quota_us);
        for (name, value) in bandwidth(quota, period, known) {
            number(name, value);
        }
    }
    if asked.memory_limit_bytes != 0 {
        number(if v2 { MEMORY_MAX } else { MEMORY_LIMIT }, finite(asked.memory_limit_bytes));
    }
    if let Some(limit) = pids_limit {
        number(TASKS_MAX, finite(limit));
    }
    if !v2 {
        return Ok(properties);
    }
    let current = u64::try_from(now.memory_limit_bytes).ok();
    if let Some(swap) = swap_max(asked.memory_limit_bytes, asked.memory_swap_limit_bytes, current)? {
        number(MEMORY_SWAP_MAX, swap.parse().unwrap_or(INFINITY));
    }
    for (name, list) in [(ALLOWED_CPUS, &asked.cpuset_cpus), (ALLOWED_MEMORY_NODES, &asked.cpuset_mems)] {
        if !list.is_empty() && known.has(name) {
            properties.push((name, Value::from(mask(list)?)));
        }
    }
    // As with the files, these come last and count.
    properties.extend(asked.unified.iter().flat_map(|(key, value)| unified(key, value.trim(), known)));
    Ok(properties)
}

fn finite(value: i64) -> u64 {
    if value < 0 { INFINITY } else { value as u64 }
}

fn bandwidth(quota: i64, period: i64, known: Known) -> Vec<(&'static str, u64)> {
    let mut all = vec![(CPU_QUOTA_PER_SEC_US, per_second(quota, period))];
    if known.has(CPU_QUOTA_PERIOD_US) {
        all.push((CPU_QUOTA_PERIOD_US, period as u64));
    }
    all
}

fn per_second(quota: i64, period: i64) -> u64 {
    if quota <= 0 {
        return INFINITY;
    }
    let exact = (quota as u128 * 1_000_000).div_ceil(period.max(1) as u128);
    u64::try_from(exact).map_or(INFINITY, |exact| exact.next_multiple_of(PERCENT_US))
}

/// A file of v2 as properties. None for what has none, which systemd does not write back either, and for values that are
/// wrong: the kernel says so when they are written.
fn unified(key: &str, value: &str, known: Known) -> Vec<Property> {
    let numbers = |all: Vec<(&'static str, u64)>| {
        all.into_iter().map(|(name, value)| (name, Value::from(value))).collect::<Vec<_>>()
    };
    let list = |name| match mask(value) {
        Ok(mask) if known.has(name) => vec![(name, Value::from(mask))],
        _ => Vec::new(),
    };
    let limit = if value == "max" { Some(INFINITY) } else { value.parse().ok() };
    let name = match key {
        "cpu.max" => {
            let (quota, period) = parse::cpu_max(value);
            let is_limit = quota.is_some() || value.starts_with("max");
            let period = period.unwrap_or(DEFAULT_PERIOD_US);
            let all = if is_limit { bandwidth(quota.unwrap_or(-1), period, known) } else { Vec::new() };
            return numbers(all);
        }
        "cpu.idle" if value == "1" && known.has_idle() => return numbers(vec![(CPU_WEIGHT, IDLE)]),
        "io.weight" => {
            let weight = value.strip_prefix("default").unwrap_or(value).trim().parse().ok();
            return numbers(weight.map(|weight| ("IOWeight", weight)).into_iter().collect());
        }
        "cpuset.cpus" => return list(ALLOWED_CPUS),
        "cpuset.mems" => return list(ALLOWED_MEMORY_NODES),
        "cpu.weight" => CPU_WEIGHT,
        "memory.min" => "MemoryMin",
        "memory.low" => MEMORY_LOW,
        "memory.high" => "MemoryHigh",
        "memory.max" => MEMORY_MAX,
        "memory.swap.max" => MEMORY_SWAP_MAX,
        "memory.zswap.max" => "MemoryZSwapMax",
        "pids.max" => TASKS_MAX,
        _ => return Vec::new(),
    };
    numbers(limit.filter(|_| known.has(name)).map(|limit| (name, limit)).into_iter().collect())
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
    use std::os::fd::AsFd as _;

    use super::*;
    use holdfast_model::DeviceKind;

    const V2: Known = Known { mode: Mode::V2, version: 257 };
    const HYBRID: Known = Known { mode: Mode::Hybrid, version: 252 };

    fn find(properties: &[Property], name: &str) -> Option<u64> {
        properties
            .iter()
            .find(|property| property.0 == name)
            .map(|property| property.1.clone().try_into().unwrap())
    }

    #[test]
    fn what_a_slice_wants_is_a_list() {
        let slice = Unit { name: "a-b.slice".into(), slice: "a.slice".into() };
        let wants = unit(&slice).into_iter().find(|property| property.0 == WANTS);
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
        let found = limits(&asked, &Resources::default(), Some(-1), V2).unwrap();
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
        let found = limits(&asked, &Resources::default(), None, HYBRID).unwrap();
        assert_eq!((find(&found, "CPUShares"), find(&found, "MemoryLimit")), (Some(512), Some(u64::MAX)));
        assert_eq!((find(&found, "CPUQuotaPerSecUSec"), find(&found, "TasksMax")), (Some(u64::MAX), None));
        let now = Resources { cpu_period_us: 50_000, memory_limit_bytes: 80, ..Resources::default() };
        let asked = Resources { cpu_quota_us: 50_000, memory_swap_limit_bytes: 100, ..Resources::default() };
        let found = limits(&asked, &now, None, V2).unwrap();
        assert_eq!(
            (find(&found, "CPUQuotaPerSecUSec"), find(&found, "MemorySwapMax")),
            (Some(1_000_000), Some(20))
        );
        assert!(limits(&Resources::default(), &now, None, V2).unwrap().is_empty());
    }

    #[test]
    fn files_of_v2_that_systemd_would_write_back() {
        let with = |all: &[(&str, &str)], cpu_shares| Resources {
            cpu_shares,
            unified: all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Resources::default()
        };
        let of = |asked: &Resources, version| {
            limits(asked, &Resources::default(), None, Known { mode: Mode::V2, version }).unwrap()
        };
        let found = of(&with(&[("cpu.max", "30000 50000"), ("io.weight", "default 200")], 0), 257);
        assert_eq!(find(&found, "CPUQuotaPerSecUSec"), Some(600_000));
        assert_eq!(find(&found, "CPUQuotaPeriodUSec"), Some(50_000));
        assert_eq!(find(&found, "IOWeight"), Some(200));
        assert_eq!(find(&of(&with(&[("cpu.max", "max")], 0), 257), "CPUQuotaPerSecUSec"), Some(INFINITY));
        let last = |found: &[Property]| {
            found
                .iter()
                .rev()
                .find(|one| one.0 == CPU_WEIGHT)
                .map(|one| u64::try_from(one.1.clone()).unwrap())
        };
        assert_eq!(last(&of(&with(&[("cpu.idle", "1")], 1024), 257)), Some(IDLE));
        assert_eq!(last(&of(&with(&[("cpu.idle", "0")], 1024), 257)), Some(100));
        assert_eq!(last(&of(&with(&[("cpu.idle", "0")], 0), 257)), Some(INFINITY));
        let found = of(&with(&[("cpuset.cpus", "0-1"), ("memory.zswap.max", "0")], 0), 257);
        assert!(found.iter().any(|one| one.0 == ALLOWED_CPUS) && find(&found, "MemoryZSwapMax") == Some(0));
        // An older systemd would refuse all for one that it does not know; a wrong value is the kernel's to refuse.
        assert!(
            of(&with(&[("cpuset.cpus", "0-1"), ("memory.zswap.max", "0"), ("cpu.idle", "1")], 0), 243)
                .is_empty()
        );
        assert!(
            of(&with(&[("cpuset.cpus", "x"), ("memory.high", "x"), ("cpu.max", "x")], 0), 257).is_empty()
        );
        assert!(of(&with(&[("io.weight", "8:0 50"), ("memory.oom.group", "1")], 0), 257).is_empty());
    }

    #[test]
    fn a_process_is_named_by_its_descriptor_where_systemd_takes_it() {
        let pid = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let (name, value) = process(7, pidfd.as_fd(), V2).unwrap();
        assert_eq!((name, value.value_signature().to_string()), (PIDFDS, "ah".to_owned()));
        let (name, value) = process(7, pidfd.as_fd(), HYBRID).unwrap();
        assert_eq!((name, value), (PIDS, Value::from(vec![7_u32])));
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
