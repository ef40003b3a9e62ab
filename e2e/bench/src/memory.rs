//! Memory: proportional set size of the runtime's processes while many pods stand.

use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result};

use crate::{
    Options,
    client::{Client, Pair},
    figure::Figure,
};

/// Makes the pods, measures, and removes them again.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Vec<Figure>> {
    if options.pods == 0 {
        return Ok(Vec::new());
    }
    let mut pairs = Vec::new();
    let filled = fill(client, options.pods, &mut pairs).await;
    let daemon = daemon_kib(options);
    let helpers: u64 = options.processes.iter().skip(1).map(|name| pss_kib(name)).sum();
    for pair in &pairs {
        client.end_container(&pair.container).await?;
        client.end_pod(&pair.pod).await?;
    }
    filled?;
    let pods = options.pods;
    Ok(vec![
        Figure::single("helpers of one pod, PSS", "KiB", helpers as f64 / pods as f64),
        Figure::single(format!("daemon with {pods} pods, PSS"), "KiB", daemon? as f64),
    ])
}

/// Makes pods with one container each; `pairs` gets what was made, also when it fails.
pub async fn fill(client: &mut Client, pods: usize, pairs: &mut Vec<Pair>) -> Result<()> {
    for _ in 0..pods {
        let (pod, config) = client.run_pod().await?;
        let container = client.start(&pod, &config).await?;
        pairs.push(Pair { pod, container });
    }
    Ok(())
}

/// PSS of the daemon, in KiB.
pub fn daemon_kib(options: &Options) -> Result<u64> {
    Ok(pss_kib(options.processes.first().context("--processes names no daemon")?))
}

/// PSS of the processes of that name, in KiB. By the first word of the command line: the executable's own link is of no
/// use where it was run from a mount of its own.
fn pss_kib(name: &str) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        if Path::new(OsStr::from_bytes(first)).file_name().is_some_and(|file| file == name) {
            // A process that has just ended has none.
            let text = fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
            sum += pss_of(&text).unwrap_or(0);
        }
    }
    sum
}

fn pss_of(text: &str) -> Option<u64> {
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    fields.get("Pss")?.trim().strip_suffix("kB")?.trim().parse().ok()
}
