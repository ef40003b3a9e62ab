//! What the kernel says the limits are now, in CRI's words.

use holdfast_model::{HugepageLimit, Resources};

use crate::{
    Error, Mode,
    files::GroupDir,
    layout::Layout,
    limits::{page_sizes, shares_to_weight, weight_to_shares},
    limits_v1::has_hugetlb,
    parse,
};

/// Unlimited is -1 for memory, swap and quota. `oom_score_adj` belongs to processes and stays 0.
pub(crate) fn read(layout: &Layout, path: &str) -> Result<Resources, Error> {
    if layout.mode == Mode::V2 { read_v2(layout, path) } else { read_v1(layout, path) }
}

/// Takes over from what was asked where the kernel holds the same by its own measure (weights, whole pages, ranges).
pub(crate) fn in_words_of(mut now: Resources, asked: &Resources, mode: Mode) -> Resources {
    let weight = |shares: i64| shares_to_weight(shares.max(0) as u64);
    if mode == Mode::V2 && asked.cpu_shares > 0 && weight(asked.cpu_shares) == weight(now.cpu_shares) {
        now.cpu_shares = asked.cpu_shares;
    }
    let page = rustix::param::page_size() as i64;
    let same = |asked: i64, now: i64| asked > 0 && now > 0 && (asked - now).abs() < page;
    if same(asked.memory_limit_bytes, now.memory_limit_bytes) {
        now.memory_limit_bytes = asked.memory_limit_bytes;
    }
    // Two sums of rounded parts.
    if same(asked.memory_swap_limit_bytes, now.memory_swap_limit_bytes)
        || same(asked.memory_swap_limit_bytes - page, now.memory_swap_limit_bytes)
    {
        now.memory_swap_limit_bytes = asked.memory_swap_limit_bytes;
    }
    for (asked, now) in
        [(&asked.cpuset_cpus, &mut now.cpuset_cpus), (&asked.cpuset_mems, &mut now.cpuset_mems)]
    {
        if parse::cpuset_eq(asked, now) {
            now.clone_from(asked);
        }
    }
    now.oom_score_adj = asked.oom_score_adj;
    now
}

fn signed(limit: Option<u64>) -> i64 {
    limit.map_or(-1, |limit| limit as i64)
}

fn line(dir: &GroupDir, file: &str) -> Result<String, Error> {
    Ok(dir.read_optional(file)?.unwrap_or_default().trim().to_owned())
}

fn read_v2(layout: &Layout, path: &str) -> Result<Resources, Error> {
    let Some(dir) = layout.open("", path)? else { return Err(Error::NotMounted) };
    let mut now = Resources::default();
    if let Some(weight) = dir.read_optional("cpu.weight")? {
        now.cpu_shares = weight.trim().parse().map_or(0, weight_to_shares);
    }
    if let Some(text) = dir.read_optional("cpu.max")? {
        let (quota, period) = parse::cpu_max(&text);
        now.cpu_quota_us = quota.unwrap_or(-1);
        now.cpu_period_us = period.unwrap_or(0);
    }
    if let Some(text) = dir.read_optional("memory.max")? {
        let limit = parse::limit(&text);
        now.memory_limit_bytes = signed(limit);
        if let Some(swap) = dir.read_optional("memory.swap.max")? {
            now.memory_swap_limit_bytes =
                signed(limit.zip(parse::limit(&swap)).map(|(a, b)| a.saturating_add(b)));
        }
    }
    now.cpuset_cpus = line(&dir, "cpuset.cpus")?;
    now.cpuset_mems = line(&dir, "cpuset.mems")?;
    if let Some(group) = dir.read_optional("memory.oom.group")?.filter(|text| text.trim() == "1") {
        now.unified.insert("memory.oom.group".to_owned(), group.trim().to_owned());
    }
    if has_hugetlb(&dir) {
        now.hugepage_limits = hugepages(&dir, "max")?;
    }
    Ok(now)
}

fn read_v1(layout: &Layout, path: &str) -> Result<Resources, Error> {
    let mut now = Resources::default();
    let number = |text: String| text.trim().parse::<i64>().unwrap_or(0);
    if let Some(dir) = layout.open("cpu", path)? {
        now.cpu_shares = number(dir.read("cpu.shares")?);
        now.cpu_quota_us = number(line(&dir, "cpu.cfs_quota_us")?);
        now.cpu_period_us = number(line(&dir, "cpu.cfs_period_us")?);
    }
    if let Some(dir) = layout.open("memory", path)? {
        now.memory_limit_bytes = signed(parse::limit(&dir.read("memory.limit_in_bytes")?));
        if let Some(both) = dir.read_optional("memory.memsw.limit_in_bytes")? {
            now.memory_swap_limit_bytes = signed(parse::limit(&both));
        }
    }
    if let Some(dir) = layout.open("cpuset", path)? {
        now.cpuset_cpus = line(&dir, "cpuset.cpus")?;
        now.cpuset_mems = line(&dir, "cpuset.mems")?;
    }
    if let Some(dir) = layout.open("hugetlb", path)? {
        now.hugepage_limits = hugepages(&dir, "limit_in_bytes")?;
    }
    Ok(now)
}

/// Only sizes with a limit.
fn hugepages(dir: &GroupDir, suffix: &str) -> Result<Vec<HugepageLimit>, Error> {
    let mut limits = Vec::new();
    for page_size in page_sizes() {
        let text = dir.read_optional(&format!("hugetlb.{page_size}.{suffix}"))?;
        if let Some(limit_bytes) = text.as_deref().and_then(parse::limit) {
            limits.push(HugepageLimit { page_size, limit_bytes });
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_echoed_where_it_is_in_force() {
        let asked = Resources {
            cpu_shares: 1000,
            memory_limit_bytes: (64 << 20) + 100,
            memory_swap_limit_bytes: (128 << 20) + 100,
            cpuset_cpus: "0,1".into(),
            oom_score_adj: 5,
            ..Resources::default()
        };
        let now = Resources {
            cpu_shares: weight_to_shares(shares_to_weight(1000)),
            memory_limit_bytes: 64 << 20,
            memory_swap_limit_bytes: 128 << 20,
            cpuset_cpus: "0-1".into(),
            ..Resources::default()
        };
        assert_eq!(in_words_of(now.clone(), &asked, Mode::V2), asked);
        let other = Resources { memory_limit_bytes: 32 << 20, cpu_shares: 2, ..now };
        let told = in_words_of(other, &asked, Mode::V2);
        assert_eq!((told.memory_limit_bytes, told.cpu_shares), (32 << 20, 2));
    }
}
