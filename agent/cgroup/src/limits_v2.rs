//! Limits in v2's files.

use holdfast_model::Resources;

use crate::{
    Error,
    files::GroupDir,
    layout::Layout,
    limits::{set, shares_to_weight, word},
    limits_v1::{has_hugetlb, set_hugepages},
    parse,
};

const MEMORY: &str = "memory.max";
const SWAP: &str = "memory.swap.max";
/// Since Linux 5.15.
const IDLE: &str = "cpu.idle";

pub(crate) fn apply(
    layout: &Layout,
    path: &str,
    asked: &Resources,
    pids_limit: Option<i64>,
) -> Result<(), Error> {
    let Some(dir) = layout.open("", path)? else { return Err(Error::NotMounted) };
    cpu(&dir, asked)?;
    memory(&dir, asked)?;
    for (file, list) in [("cpuset.cpus", &asked.cpuset_cpus), ("cpuset.mems", &asked.cpuset_mems)] {
        if !list.is_empty() {
            set(&dir, file, list, &file.replace('.', "_"))?;
        }
    }
    if let Some(limit) = pids_limit {
        set(&dir, "pids.max", &word(limit as u64, "max"), "pids limit")?;
    }
    if !asked.hugepage_limits.is_empty() {
        if has_hugetlb(&dir) {
            set_hugepages(&dir, &asked.hugepage_limits, ("max", "max"))?;
        } else {
            tracing::debug!(group = path, "no hugetlb controller here: limits of huge pages are skipped");
        }
    }
    for (key, value) in asked.unified.iter().filter(|(key, _)| *key != IDLE) {
        value.lines().try_for_each(|line| set(&dir, key, line, &format!("unified[{key}]")))?;
    }
    Ok(())
}

fn cpu(dir: &GroupDir, asked: &Resources) -> Result<(), Error> {
    // A group that is idle has no weight (EINVAL), so this comes before weights and decides about them.
    if let Some(idle) = asked.unified.get(IDLE) {
        set(dir, IDLE, idle, &format!("unified[{IDLE}]"))?;
    }
    let is_idle = dir.read_optional(IDLE)?.is_some_and(|text| text.trim() == "1");
    if asked.cpu_shares != 0 && !is_idle {
        set(dir, "cpu.weight", &shares_to_weight(asked.cpu_shares as u64).to_string(), "cpu_shares")?;
    }
    if asked.cpu_quota_us == 0 && asked.cpu_period_us == 0 {
        return Ok(());
    }
    let current = if asked.cpu_quota_us == 0 {
        dir.read_optional("cpu.max")?.unwrap_or_default()
    } else {
        String::new()
    };
    set(dir, "cpu.max", &cpu_max(asked, &current), "cpu_quota")
}

/// A lone quota keeps the period; a lone period takes the quota that is in force.
fn cpu_max(asked: &Resources, current: &str) -> String {
    let quota = match asked.cpu_quota_us {
        0 => parse::cpu_max(current).0.map_or("max".to_owned(), |quota| quota.to_string()),
        ..0 => "max".to_owned(),
        quota => quota.to_string(),
    };
    if asked.cpu_period_us == 0 { quota } else { format!("{quota} {}", asked.cpu_period_us) }
}

fn memory(dir: &GroupDir, asked: &Resources) -> Result<(), Error> {
    let (limit, both) = (asked.memory_limit_bytes, asked.memory_swap_limit_bytes);
    if limit == 0 && both == 0 {
        return Ok(());
    }
    let current =
        if limit == 0 { parse::limit(&dir.read_optional(MEMORY)?.unwrap_or_default()) } else { None };
    if let Some(swap) = swap_max(limit, both, current)? {
        match set(dir, SWAP, &swap, "memory_swap_limit_in_bytes") {
            // Without swap accounting there is nothing to limit, as in containerd.
            Err(Error::NoController { .. }) if dir.has(MEMORY) => {
                tracing::debug!(group = %dir.path.display(), "no swap accounting here: the limit of swap is skipped");
            }
            other => other?,
        }
    }
    match limit {
        0 => Ok(()),
        -1 => set(dir, MEMORY, "max", "memory_limit_in_bytes"),
        limit => set(dir, MEMORY, &limit.to_string(), "memory_limit_in_bytes"),
    }
}

/// v2 counts swap alone where CRI counts memory and swap together. `None`: leave it.
pub(crate) fn swap_max(limit: i64, both: i64, current: Option<u64>) -> Result<Option<String>, Error> {
    const FIELD: &str = "memory_swap_limit_in_bytes";
    let base = match (limit, both) {
        // For those who only ever said "no memory limit" on v1.
        (-1, 0) | (_, -1) => return Ok(Some("max".to_owned())),
        (_, 0) => return Ok(None),
        (0, _) => current.ok_or_else(|| {
            Error::invalid(
                FIELD,
                both,
                "needs memory_limit_in_bytes as well, since the group has no memory limit",
            )
        })?,
        (limit, _) => limit.max(0) as u64,
    };
    let swap = (both as u64).checked_sub(base).ok_or_else(|| {
        Error::invalid(FIELD, both, format!("is below the memory limit ({base}), which it includes"))
    })?;
    Ok(Some(swap.to_string()))
}

/// What can be reclaimed (page cache, slab) does not count.
pub(crate) fn refuse_below_usage(layout: &Layout, path: &str, limit: i64) -> Result<(), Error> {
    let Some(dir) = layout.open("", path)?.filter(|_| limit > 0) else { return Ok(()) };
    let (Some(current), Some(stat)) =
        (dir.read_optional("memory.current")?, dir.read_optional("memory.stat")?)
    else {
        return Ok(());
    };
    let [file, shmem, slab] = parse::flat(&stat, ["file", "shmem", "slab_reclaimable"]);
    let usage: u64 = current.trim().parse().unwrap_or(0);
    let fixed = usage.saturating_sub(file.saturating_sub(shmem)).saturating_sub(slab);
    if fixed > limit as u64 {
        return Err(Error::BelowUsage { limit, group: path.to_owned(), usage: fixed });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_what_remains() {
        for (limit, both, current, expected) in [
            (0, 0, None, None),
            (100, 0, None, None),
            (100, -1, None, Some("max")),
            (-1, 0, None, Some("max")),
            (100, 100, None, Some("0")),
            (100, 250, None, Some("150")),
            (0, 250, Some(200), Some("50")),
        ] {
            assert_eq!(
                swap_max(limit, both, current).unwrap().as_deref(),
                expected,
                "{limit} {both} {current:?}"
            );
        }
        assert!(swap_max(100, 50, None).is_err());
        assert!(swap_max(0, 50, None).unwrap_err().to_string().contains("memory_limit_in_bytes"));
        assert!(swap_max(0, 50, Some(60)).is_err());
    }

    #[test]
    fn cpu_max_keeps_what_is_not_said() {
        let asked =
            |quota, period| Resources { cpu_quota_us: quota, cpu_period_us: period, ..Resources::default() };
        assert_eq!(cpu_max(&asked(50_000, 100_000), ""), "50000 100000");
        assert_eq!(cpu_max(&asked(-1, 0), ""), "max");
        assert_eq!(cpu_max(&asked(0, 20_000), "5000 100000\n"), "5000 20000");
        assert_eq!(cpu_max(&asked(0, 20_000), "max 100000\n"), "max 20000");
    }
}
