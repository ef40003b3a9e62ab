//! Resource limits: checked before anything is made, then written in the order that the kernel wants.

use std::path::Path;

use holdfast_model::Resources;
use rustix::io::Errno;

use crate::{
    Error, Mode,
    files::GroupDir,
    layout::Layout,
    limits_v1, limits_v2,
    parse::{self, UNLIMITED},
};

const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
const PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const MIN_QUOTA_US: i64 = 1_000;
const MIN_MEMORY: i64 = 4096;
const MAX_UNIFIED: usize = 4096;

/// Whether a group is new. An update may lean on what was set before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Create,
    Update,
}

/// Without a limit of memory and swap the memory limit is it: the container does not swap, as with containerd.
pub fn with_swap(asked: &Resources) -> Resources {
    let mut resources = asked.clone();
    if resources.memory_swap_limit_bytes == 0 {
        resources.memory_swap_limit_bytes = resources.memory_limit_bytes;
    }
    resources
}

/// Refuses what no kernel would take, by field and value.
pub(crate) fn check(resources: &Resources, mode: Mode, phase: Phase) -> Result<(), Error> {
    let range = |field, value: i64, range: std::ops::RangeInclusive<i64>| {
        if value == 0 || range.contains(&value) {
            return Ok(());
        }
        Err(Error::invalid(field, value, format!("is not within {} and {}", range.start(), range.end())))
    };
    range("cpu_shares", resources.cpu_shares, SHARES)?;
    range("cpu_period", resources.cpu_period_us, PERIOD_US)?;
    if resources.cpu_quota_us != -1 {
        range("cpu_quota", resources.cpu_quota_us, MIN_QUOTA_US..=i64::MAX / 1000)?;
    }
    if resources.memory_limit_bytes != -1 {
        range("memory_limit_in_bytes", resources.memory_limit_bytes, MIN_MEMORY..=i64::MAX)?;
    }
    range("oom_score_adj", resources.oom_score_adj, -1000..=1000)?;
    check_swap(resources, phase)?;
    for (field, list) in [("cpuset_cpus", &resources.cpuset_cpus), ("cpuset_mems", &resources.cpuset_mems)] {
        if !list.is_empty() && parse::cpuset(list).is_none() {
            return Err(Error::invalid(field, list, "is not a list such as 0-3,5"));
        }
    }
    for limit in &resources.hugepage_limits {
        check_page_size(&limit.page_size)?;
    }
    check_unified(resources, mode)
}

fn check_swap(resources: &Resources, phase: Phase) -> Result<(), Error> {
    const FIELD: &str = "memory_swap_limit_in_bytes";
    let (limit, swap) = (resources.memory_limit_bytes, resources.memory_swap_limit_bytes);
    let problem = match (limit, swap) {
        (_, -1 | 0) => return Ok(()),
        (_, ..0) => "is negative; -1 stands for no limit".to_owned(),
        (0, _) if phase == Phase::Create => {
            "needs memory_limit_in_bytes as well, since it counts both".to_owned()
        }
        (-1, _) => "limits memory and swap, but memory_limit_in_bytes is -1".to_owned(),
        (limit, swap) if swap < limit => {
            format!("is below memory_limit_in_bytes ({limit}), which it includes")
        }
        _ => return Ok(()),
    };
    Err(Error::invalid(FIELD, swap, problem))
}

fn check_page_size(size: &str) -> Result<(), Error> {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    if digits
        .is_some_and(|digits| (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
    {
        return Ok(());
    }
    Err(Error::invalid("hugepage_limits.page_size", size, "is not a size such as 2MB or 1GB"))
}

fn check_unified(resources: &Resources, mode: Mode) -> Result<(), Error> {
    for (key, value) in &resources.unified {
        let name = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let problem = if mode != Mode::V2 {
            "is a file of cgroup v2, which this host does not use"
        } else if !name || !key.contains('.') || key.starts_with('.') || key.len() > 255 {
            "is not the name of a control file such as memory.high"
        } else if key.starts_with("cgroup.") && !key.starts_with("cgroup.max.") {
            "steers the group itself and is not a limit"
        } else if value.len() > MAX_UNIFIED || value.contains('\0') {
            "has a value that no control file takes"
        } else {
            continue;
        };
        return Err(Error::invalid("unified", key, problem));
    }
    Ok(())
}

/// Writes what is asked for; 0 and empty leave a value as it is.
pub(crate) fn apply(
    layout: &Layout,
    path: &str,
    resources: &Resources,
    pids_limit: Option<i64>,
) -> Result<(), Error> {
    match layout.mode {
        Mode::V2 => limits_v2::apply(layout, path, resources, pids_limit),
        Mode::V1 | Mode::Hybrid => limits_v1::apply(layout, path, resources, pids_limit),
    }
}

/// v2 would kill for a memory limit below what is used, where v1 answers EBUSY: refused before anything is changed.
pub(crate) fn refuse_below_usage(layout: &Layout, path: &str, asked: &Resources) -> Result<(), Error> {
    if layout.mode == Mode::V2 {
        limits_v2::refuse_below_usage(layout, path, asked.memory_limit_bytes)
    } else {
        Ok(())
    }
}

/// CPU shares (2 to 262144, 1024 usual) as v2 weight (1 to 10000, 100 usual).
///
/// runc's and crun's formula since 2025 (opencontainers/cgroups `ConvertCPUSharesToCgroupV2Value`): a quadratic in the
/// logarithm that meets minimum, default and maximum. cgroups-rs still has the linear one, where 1024 became 39.
pub fn shares_to_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

/// The most shares that give this weight.
pub(crate) fn weight_to_shares(weight: u64) -> i64 {
    let (mut low, mut high) = (2_u64, 262_144_u64);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if shares_to_weight(middle) <= weight { low = middle } else { high = middle - 1 }
    }
    // The usual values are met exactly.
    if weight == 100 { 1024 } else { low as i64 }
}

/// A control file's word for a limit.
pub(crate) fn word(value: u64, unlimited: &str) -> String {
    if value >= UNLIMITED { unlimited.to_owned() } else { value.to_string() }
}

/// Writes a value that a request gave, so that the kernel's refusal names the field.
pub(crate) fn set(dir: &GroupDir, file: &str, value: &str, field: &str) -> Result<(), Error> {
    dir.write(file, value).map_err(|error| match error.errno().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => no_controller(dir, file, field),
        Some(errno) if is_about_the_value(errno, dir, field) => Error::invalid(
            field,
            value,
            format!(
                "was refused by the kernel ({}): it does not fit the machine or the parent of {}",
                std::io::Error::from(errno),
                dir.path.display()
            ),
        ),
        _ => error,
    })
}

fn is_about_the_value(errno: Errno, dir: &GroupDir, field: &str) -> bool {
    match errno {
        Errno::INVAL | Errno::RANGE | Errno::OVERFLOW | Errno::ACCESS => true,
        // What is written by its file's name can meet whatever that file has: no such disk, no such operation.
        Errno::NODEV => dir.has("cgroup.procs"),
        _ => field.starts_with("unified["),
    }
}

/// The error for a control file that is not there.
pub(crate) fn no_controller(dir: &GroupDir, file: &str, field: &str) -> Error {
    let controller = file.split('.').next().unwrap_or(file).to_owned();
    let hint = match dir.path.parent().map(|parent| parent.join("cgroup.subtree_control")) {
        Some(control) if !dir.path.join(file).exists() && control.exists() => {
            format!(": it is not enabled in {}", control.display())
        }
        _ => String::new(),
    };
    Error::NoController { field: field.to_owned(), controller, group: dir.path.display().to_string(), hint }
}

/// The sizes of huge pages that this kernel has, as the hugetlb controller writes them.
pub(crate) fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/kernel/mm/hugepages")) else { return Vec::new() };
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes
        .into_iter()
        .map(|kib| match kib {
            1_048_576.. => format!("{}GB", kib >> 20),
            1024.. => format!("{}MB", kib >> 10),
            _ => format!("{kib}KB"),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "limits_tests.rs"]
mod tests;
