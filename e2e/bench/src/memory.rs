//! Memory: proportional set size of the runtime's processes while many pods stand.

use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::Result;
use serde::Serialize;

use crate::{
    Options,
    client::{Client, Pair},
};

/// Processes of one name.
#[derive(Debug, Clone, Serialize)]
pub struct Process {
    /// Name of the program.
    pub name: String,
    /// How many.
    pub count: usize,
    /// Sum of their PSS in KiB.
    pub pss_kib: u64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Pods that stood.
    pub pods: usize,
    /// By name.
    pub processes: Vec<Process>,
    /// KiB for each pod, of all but the first name (the daemon).
    pub per_pod_kib: f64,
}

/// Makes the pods, measures, and removes them again.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Option<Memory>> {
    if options.pods == 0 {
        return Ok(None);
    }
    let mut pairs = Vec::new();
    let filled = fill(client, options.pods, &mut pairs).await;
    let processes: Vec<Process> = options.processes.iter().map(|name| sum(name)).collect();
    for pair in &pairs {
        client.end_container(&pair.container).await?;
        client.end_pod(&pair.pod).await?;
    }
    filled?;
    let helpers: u64 = processes.iter().skip(1).map(|process| process.pss_kib).sum();
    Ok(Some(Memory { pods: options.pods, per_pod_kib: helpers as f64 / options.pods as f64, processes }))
}

async fn fill(client: &mut Client, pods: usize, pairs: &mut Vec<Pair>) -> Result<()> {
    for _ in 0..pods {
        let (pod, config) = client.run_pod().await?;
        let container = client.start(&pod, &config).await?;
        pairs.push(Pair { pod, container });
    }
    Ok(())
}

/// PSS of the processes of that name, in KiB.
pub fn pss_kib(name: &str) -> i64 {
    sum(name).pss_kib as i64
}

/// By the first word of the command line: the executable's own link is of no use where it was run from a mount of its
/// own.
fn sum(name: &str) -> Process {
    let mut process = Process { name: name.to_owned(), count: 0, pss_kib: 0 };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        if Path::new(OsStr::from_bytes(first)).file_name().is_none_or(|file| file != name) {
            continue;
        }
        if let Some(pss) = fs::read_to_string(path.join("smaps_rollup")).ok().and_then(|text| pss_of(&text)) {
            process.count += 1;
            process.pss_kib += pss;
        }
    }
    process
}

fn pss_of(text: &str) -> Option<u64> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    fields.get("Pss")?.trim().strip_suffix("kB")?.trim().parse().ok()
}
