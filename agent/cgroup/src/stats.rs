//! What a group uses.

use std::time::SystemTime;

use crate::{
    Error, Mode, Psi,
    files::GroupDir,
    layout::Layout,
    parse::{self, UNLIMITED},
};

/// Usage of a group, at one time. What the host does not count is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// When it was read: nanoseconds since the epoch.
    pub timestamp_ns: i64,
    /// CPU time used, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// CPU pressure.
    pub cpu_psi: Option<Psi>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Swap; `None` without swap accounting.
    pub swap: Option<SwapStats>,
    /// I/O pressure.
    pub io_psi: Option<Psi>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// Usage without inactive file pages: what the kubelet evicts by.
    pub working_set: u64,
    /// Limit less working set; `None`: no limit.
    pub available: Option<u64>,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults so far.
    pub page_faults: u64,
    /// Page faults that needed I/O.
    pub major_page_faults: u64,
    /// Pressure.
    pub psi: Option<Psi>,
}

/// Swap, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// Used.
    pub usage: u64,
    /// What the limit leaves; `None`: no limit.
    pub available: Option<u64>,
}

/// Reads them: 5 files on v1, 10 on v2.
pub(crate) fn read(layout: &Layout, path: &str) -> Result<Stats, Error> {
    let mut stats = if layout.mode == Mode::V2 { read_v2(layout, path)? } else { read_v1(layout, path)? };
    stats.timestamp_ns = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as i64);
    Ok(stats)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn optional(dir: &GroupDir, file: &str) -> Result<Option<u64>, Error> {
    Ok(dir.read_optional(file)?.as_deref().and_then(number))
}

/// PSI can be off (psi=0, cgroup.pressure): reading then fails with EOPNOTSUPP.
fn psi(dir: &GroupDir, file: &str) -> Option<Psi> {
    dir.read(file).ok().as_deref().and_then(parse::psi)
}

fn read_v2(layout: &Layout, path: &str) -> Result<Stats, Error> {
    let Some(dir) = layout.open("", path)? else { return Err(Error::NotMounted) };
    let [usage_us] = parse::flat(&dir.read("cpu.stat")?, ["usage_usec"]);
    let memory = match optional(&dir, "memory.current")? {
        None => None,
        Some(usage) => {
            let keys = ["inactive_file", "anon", "pgfault", "pgmajfault"];
            let [inactive_file, rss, page_faults, major_page_faults] =
                parse::flat(&dir.read("memory.stat")?, keys);
            let limit = dir.read_optional("memory.max")?.as_deref().and_then(parse::limit);
            let psi = psi(&dir, "memory.pressure");
            Some(MemoryStats {
                rss,
                page_faults,
                major_page_faults,
                psi,
                ..memory(usage, inactive_file, limit)
            })
        }
    };
    let swap = match optional(&dir, "memory.swap.current")? {
        None => None,
        Some(usage) => {
            let limit = dir.read_optional("memory.swap.max")?.as_deref().and_then(parse::limit);
            Some(SwapStats { usage, available: limit.map(|limit| limit.saturating_sub(usage)) })
        }
    };
    Ok(Stats {
        timestamp_ns: 0,
        cpu_usage_ns: Some(usage_us.saturating_mul(1000)),
        cpu_psi: psi(&dir, "cpu.pressure"),
        memory,
        swap,
        io_psi: psi(&dir, "io.pressure"),
        pids: optional(&dir, "pids.current")?,
    })
}

fn read_v1(layout: &Layout, path: &str) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    if let Some(dir) = layout.open("cpuacct", path)? {
        stats.cpu_usage_ns = number(&dir.read("cpuacct.usage")?);
    }
    if let Some(dir) = layout.open("pids", path)? {
        stats.pids = number(&dir.read("pids.current")?);
    }
    let Some(dir) = layout.open("memory", path)? else { return Ok(stats) };
    let usage = number(&dir.read("memory.usage_in_bytes")?).unwrap_or(0);
    let keys = [
        "total_inactive_file",
        "total_rss",
        "total_pgfault",
        "total_pgmajfault",
        "total_swap",
        "hierarchical_memory_limit",
        "hierarchical_memsw_limit",
    ];
    let [inactive_file, rss, page_faults, major_page_faults, swap, limit, both] =
        parse::flat(&dir.read("memory.stat")?, keys);
    let finite = |limit: u64| (limit < UNLIMITED).then_some(limit);
    let memory = memory(usage, inactive_file, finite(limit));
    stats.memory = Some(MemoryStats { rss, page_faults, major_page_faults, psi: None, ..memory });
    // The line is there only with swap accounting.
    if both > 0 {
        let available = finite(both).map(|both| both.saturating_sub(usage.saturating_add(swap)));
        stats.swap = Some(SwapStats { usage: swap, available });
    }
    Ok(stats)
}

fn memory(usage: u64, inactive_file: u64, limit: Option<u64>) -> MemoryStats {
    let working_set = usage.saturating_sub(inactive_file);
    let available = limit.map(|limit| limit.saturating_sub(working_set));
    MemoryStats { usage, working_set, available, ..MemoryStats::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn v2_files() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("g");
        fs::create_dir(&group).unwrap();
        let psi = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 300\nfile 600\ninactive_file 400\npgfault 7\npgmajfault 2\n"),
            ("memory.max", "2000\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "max\n"),
            ("pids.current", "3\n"),
            ("cpu.pressure", psi),
        ] {
            fs::write(group.join(name), text).unwrap();
        }
        let stats = read(&Layout::v2(root.path().to_owned()), "/g").unwrap();
        let memory = stats.memory.unwrap();
        assert_eq!((memory.usage, memory.working_set, memory.available), (1000, 600, Some(1400)));
        assert_eq!((memory.rss, memory.page_faults, memory.major_page_faults), (300, 7, 2));
        assert_eq!((stats.cpu_usage_ns, stats.pids), (Some(1_500_000), Some(3)));
        assert_eq!(stats.swap.unwrap(), SwapStats { usage: 10, available: None });
        assert_eq!(stats.cpu_psi.unwrap().some.total_ns, 5000);
        assert_eq!(stats.io_psi, None);
        assert!(stats.timestamp_ns > 0);
    }

    #[test]
    fn a_missing_group_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let error = read(&Layout::v2(root.path().to_owned()), "/gone").unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NotFound);
    }
}
