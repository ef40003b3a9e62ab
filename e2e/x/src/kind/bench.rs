//! `cargo x kind --bench`: time to a cluster whose pods are ready, and the memory of its node, beside containerd's.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{
    cluster::Cluster,
    docker::{Docker, cgroup_of},
    node, peer,
};
use crate::{
    run::{output, step},
    work::Work,
};

/// One of the compared runtimes.
struct Runtime {
    title: &'static str,
    cluster: &'static str,
    image: String,
    /// Beginnings of the names of its processes (proc(5) comm, which has 15 bytes).
    programs: &'static [&'static str],
}

#[derive(Debug)]
struct Figures {
    created_s: f64,
    ready_s: f64,
    node_mib: u64,
    runtime_mib: f64,
}

/// Clusters of one node, in turns.
pub fn run(work: &Work, docker: &Docker, rounds: u32) -> Result<()> {
    peer::load(work, docker)?;
    let runtimes = [
        Runtime { title: "Holdfast", cluster: "holdfast", image: node::name(), programs: &["holdfast"] },
        Runtime {
            title: "containerd",
            cluster: "containerd",
            image: peer::name(),
            programs: &["containerd"],
        },
    ];
    let mut all = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for (runtime, figures) in runtimes.iter().zip(&mut all) {
            let what = format!("round {round}: a cluster on {}", runtime.title);
            figures.push(step(&what, || measure(work, docker, runtime))?);
        }
    }
    println!(
        "\n| cluster of one node, median of {rounds} | {} | {} |\n|---|---|---|",
        runtimes[0].title, runtimes[1].title
    );
    let row = |name: &str, of: fn(&Figures) -> f64, unit: &str| {
        let medians = all.each_ref().map(|figures| median(figures.iter().map(of).collect()));
        println!("| {name} | {:.1} {unit} | {:.1} {unit} |", medians[0], medians[1]);
    };
    row("`kind create cluster`", |figures| figures.created_s, "s");
    row("until every pod is ready", |figures| figures.ready_s, "s");
    row("working set of the node's container", |figures| figures.node_mib as f64, "MiB");
    row("PSS of the runtime's processes", |figures| figures.runtime_mib, "MiB");
    Ok(())
}

fn measure(work: &Work, docker: &Docker, runtime: &Runtime) -> Result<Figures> {
    let cluster = Cluster::new(work, docker, runtime.cluster).with_image(&runtime.image);
    let begun = Instant::now();
    let measured = cluster.create_quietly().and_then(|()| {
        let created_s = begun.elapsed().as_secs_f64();
        cluster.all_ready()?;
        let ready_s = begun.elapsed().as_secs_f64();
        let id = output(&mut docker.docker(["ps", "--quiet", "--no-trunc"]))?;
        let group = cgroup_of(id.trim())?;
        Ok(Figures {
            created_s,
            ready_s,
            node_mib: working_set(&group)? >> 20,
            runtime_mib: pss(id.trim(), runtime.programs)?,
        })
    });
    cluster.delete()?;
    measured
}

/// Memory in use without pages of files that nobody has used for a while, as the kubelet counts it, in bytes.
fn working_set(group: &Path) -> Result<u64> {
    let read = |name: &str| {
        fs::read_to_string(group.join(name)).with_context(|| format!("read {name} of {}", group.display()))
    };
    let (usage, key) = match read("memory.current") {
        Ok(usage) => (usage, "inactive_file "),
        Err(_) => (read("memory.usage_in_bytes")?, "total_inactive_file "),
    };
    let stat = read("memory.stat")?;
    let inactive = stat.lines().find_map(|line| line.strip_prefix(key)).context("no inactive_file")?;
    Ok(usage.trim().parse::<u64>()? - inactive.parse::<u64>()?)
}

/// Sum over the node's processes with such names, in MiB.
fn pss(id: &str, programs: &[&str]) -> Result<f64> {
    let mut kib = 0_u64;
    for entry in fs::read_dir("/proc")?.flatten() {
        let path: PathBuf = entry.path();
        // Gone meanwhile, or no process at all.
        let Ok(comm) = fs::read_to_string(path.join("comm")) else { continue };
        let Ok(group) = fs::read_to_string(path.join("cgroup")) else { continue };
        if !group.contains(id) || !programs.iter().any(|name| comm.starts_with(name)) {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(path.join("smaps_rollup")) else { continue };
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        kib += pss.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    ensure!(kib > 0, "no process of the runtime in {id}");
    Ok(kib as f64 / 1024.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
