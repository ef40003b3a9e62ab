//! Limits in v1's files, also on hybrid hosts.

use holdfast_model::{HugepageLimit, Resources};
use rustix::io::Errno;

use crate::{
    Error,
    files::GroupDir,
    layout::Layout,
    limits::{set, word},
    parse,
};

const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

pub(crate) fn apply(
    layout: &Layout,
    path: &str,
    asked: &Resources,
    pids_limit: Option<i64>,
) -> Result<(), Error> {
    if asked.cpu_shares != 0 || asked.cpu_quota_us != 0 || asked.cpu_period_us != 0 {
        cpu(&controller(layout, path, "cpu", "cpu_shares, cpu_quota")?, asked)?;
    }
    if asked.memory_limit_bytes != 0 || asked.memory_swap_limit_bytes != 0 {
        memory(&controller(layout, path, "memory", "memory_limit_in_bytes")?, path, asked)?;
    }
    if !asked.cpuset_cpus.is_empty() || !asked.cpuset_mems.is_empty() {
        cpuset(&controller(layout, path, "cpuset", "cpuset_cpus, cpuset_mems")?, asked)?;
    }
    if let Some(limit) = pids_limit {
        let dir = controller(layout, path, "pids", "pids limit")?;
        set(&dir, "pids.max", &word(limit as u64, "max"), "pids limit")?;
    }
    hugepages(layout, path, &asked.hugepage_limits)
}

fn controller(layout: &Layout, path: &str, name: &str, field: &str) -> Result<GroupDir, Error> {
    layout.open(name, path)?.ok_or_else(|| Error::NoController {
        field: field.to_owned(),
        controller: name.to_owned(),
        group: path.to_owned(),
        hint: ": no hierarchy of it is mounted".to_owned(),
    })
}

fn cpu(dir: &GroupDir, asked: &Resources) -> Result<(), Error> {
    if asked.cpu_shares != 0 {
        set(dir, "cpu.shares", &asked.cpu_shares.to_string(), "cpu_shares")?;
    }
    let period = |dir| set(dir, "cpu.cfs_period_us", &asked.cpu_period_us.to_string(), "cpu_period");
    let mut period_done = asked.cpu_period_us == 0;
    if !period_done {
        // A period that is too short for the old quota under the parent's bandwidth is taken after the new quota.
        match period(dir) {
            Ok(()) => period_done = true,
            Err(Error::InvalidArgument { .. }) if asked.cpu_quota_us != 0 => {}
            Err(error) => return Err(error),
        }
    }
    if asked.cpu_quota_us != 0 {
        set(dir, "cpu.cfs_quota_us", &asked.cpu_quota_us.to_string(), "cpu_quota")?;
    }
    if period_done { Ok(()) } else { period(dir) }
}

/// The kernel keeps memory <= memory + swap at every moment, so what grows first depends on where we come from.
fn memory(dir: &GroupDir, path: &str, asked: &Resources) -> Result<(), Error> {
    let (limit, mut both) = (asked.memory_limit_bytes, asked.memory_swap_limit_bytes);
    if limit == -1 && both == 0 {
        both = -1;
    }
    let set_limit = || if limit == 0 { Ok(()) } else { set_memory(dir, path, limit) };
    let set_both = || if both == 0 { Ok(()) } else { set_swap(dir, path, both) };
    let current = parse::limit(&dir.read(MEMORY)?).unwrap_or(u64::MAX);
    if both == -1 || (both > 0 && current < both as u64) {
        set_both()?;
        set_limit()
    } else {
        set_limit()?;
        set_both()
    }
}

fn set_memory(dir: &GroupDir, path: &str, limit: i64) -> Result<(), Error> {
    match set(dir, MEMORY, &limit.to_string(), "memory_limit_in_bytes") {
        Err(error) if is_busy(&error) => Err(below_usage(dir, path, limit, "memory.usage_in_bytes")),
        Err(Error::InvalidArgument { field, value, .. }) => {
            let both = dir.read(MEMORY_AND_SWAP).unwrap_or_default();
            let problem = format!(
                "is above the limit of memory and swap ({}): raise memory_swap_limit_in_bytes too",
                both.trim()
            );
            Err(Error::InvalidArgument { field, value, problem })
        }
        other => other,
    }
}

/// Without swap accounting there is no such file, and no limit either, as in containerd.
fn set_swap(dir: &GroupDir, path: &str, both: i64) -> Result<(), Error> {
    if !dir.has(MEMORY_AND_SWAP) {
        tracing::debug!(group = path, "no swap accounting here: the limit of swap is skipped");
        return Ok(());
    }
    match set(dir, MEMORY_AND_SWAP, &both.to_string(), "memory_swap_limit_in_bytes") {
        Err(error) if is_busy(&error) => Err(below_usage(dir, path, both, "memory.memsw.usage_in_bytes")),
        other => other,
    }
}

fn is_busy(error: &Error) -> bool {
    error.errno() == Some(Errno::BUSY.raw_os_error())
}

fn below_usage(dir: &GroupDir, path: &str, limit: i64, file: &str) -> Error {
    let usage = dir.read(file).ok().as_deref().and_then(parse::limit).unwrap_or_default();
    Error::BelowUsage { limit, group: path.to_owned(), usage }
}

fn cpuset(dir: &GroupDir, asked: &Resources) -> Result<(), Error> {
    for (file, list) in [("cpuset.cpus", &asked.cpuset_cpus), ("cpuset.mems", &asked.cpuset_mems)] {
        if !list.is_empty() {
            set(dir, file, list, &file.replace('.', "_"))?;
        }
    }
    Ok(())
}

/// Skipped, as containerd does, where the controller is in no hierarchy or not enabled for the group (hybrid hosts).
fn hugepages(layout: &Layout, path: &str, limits: &[HugepageLimit]) -> Result<(), Error> {
    if limits.is_empty() {
        return Ok(());
    }
    if let Some(dir) = layout.open("hugetlb", path)? {
        return set_hugepages(&dir, limits, ("limit_in_bytes", "-1"));
    }
    match layout.unified().map(|unified| GroupDir::open(unified.dir(path))).transpose()? {
        Some(dir) if has_hugetlb(&dir) => set_hugepages(&dir, limits, ("max", "max")),
        _ => {
            tracing::debug!(group = path, "no hugetlb controller here: limits of huge pages are skipped");
            Ok(())
        }
    }
}

/// Whether the v2 group has the controller.
pub(crate) fn has_hugetlb(dir: &GroupDir) -> bool {
    dir.read("cgroup.controllers")
        .is_ok_and(|text| text.split_ascii_whitespace().any(|name| name == "hugetlb"))
}

/// `(file's last part, its word for no limit)` differ between v1 and v2.
pub(crate) fn set_hugepages(
    dir: &GroupDir,
    limits: &[HugepageLimit],
    names: (&str, &str),
) -> Result<(), Error> {
    for limit in limits {
        let file = format!("hugetlb.{}.{}", limit.page_size, names.0);
        if !dir.has(&file) {
            let problem = "is not a size of huge pages that this machine has";
            return Err(Error::invalid("hugepage_limits.page_size", &limit.page_size, problem));
        }
        let (field, value) =
            (format!("hugepage_limits[{}]", limit.page_size), word(limit.limit_bytes, names.1));
        set(dir, &file, &value, &field)?;
        // Linux 5.7: with it mmap answers ENOMEM, where without it the first touch of a page would be SIGBUS, and pages
        // that are only reserved are kept from others without being counted.
        let reserved = format!("hugetlb.{}.rsvd.{}", limit.page_size, names.0);
        if dir.has(&reserved) {
            set(dir, &reserved, &value, &field)?;
        }
    }
    Ok(())
}
