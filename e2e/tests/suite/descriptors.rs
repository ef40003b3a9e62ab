//! An agent that has used up its descriptors: what it cannot do it refuses and says why, what runs goes on, and with
//! descriptors it works again without a restart.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{self, pod, sleeper},
    wait,
};

/// Sets the soft limit of open files of another process.
fn limit(pid: u32, files: usize) -> Result<()> {
    let (pid, files) = (pid.to_string(), format!("--nofile={files}:"));
    process::stdout("prlimit", ["--pid", &pid, &files]).map(drop)
}

/// The soft limit of open files of a process.
fn allowed(pid: u32) -> Result<usize> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).context("no limit of open files")?;
    Ok(soft.parse()?)
}

/// The limit with which a process can open so many files more: each gets the lowest number that is free.
fn with_spare(pid: u32, spare: usize) -> Result<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let used: BTreeSet<usize> = numbers.collect();
    (0..).filter(|number| !used.contains(number)).nth(spare).context("no number is free")
}

/// Time that a process has spent on processors, in user and kernel mode (proc_pid_stat(5)).
fn processor_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before may hold anything; the 14th and 15th fields of all are meant.
    let (_, fields) = text.rsplit_once(") ").context("no name")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let per_second: u32 = process::stdout("getconf", ["CLK_TCK"])?.trim().parse()?;
    Ok(Duration::from_secs(ticks) / per_second)
}

#[test]
fn used_up() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let agent = scene.agent()?.pid().context("no agent")?;
    let enough = allowed(agent)?;
    let kept = pod(&scene.dir, "kept");
    let kept_id = scene.run_pod(&kept)?;
    let survivor = scene.start(&kept_id, &kept, &sleeper("survivor", BUSYBOX))?;
    let pid = scene.crictl.json(&["inspect", &survivor])?["info"]["pid"].clone();
    let (late, late_pod) = scene.create_files(&kept, &sleeper("late", BUSYBOX))?;
    let pod_file = specs::write(&scene.dir, &pod(&scene.dir, "late"))?.to_string_lossy().into_owned();
    let calls: [&[&str]; 4] = [
        &["runp", &pod_file],
        &["create", &kept_id, &late, &late_pod],
        &["exec", "-s", &survivor, "true"],
        &["pull", "holdfast.test/zstd:1"],
    ];
    let mut refused = 0;
    for spare in 1..=20 {
        for args in calls {
            limit(agent, with_spare(agent, spare)?)?;
            let output = scene.crictl.call(args)?;
            limit(agent, enough)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() {
                refused += 1;
                // Without a descriptor for the connection itself nobody can be told, and the client gives up.
                let unheard = said.contains("deadline exceeded") || said.contains("connection error");
                ensure!(unheard || said.contains("ResourceExhausted"), "{spare} to spare: {args:?}: {said}");
            }
            for id in scene.crictl.ok(&["ps", "--all", "--quiet", "--name", "late"])?.lines() {
                scene.crictl.ok(&["rm", "-f", id])?;
            }
            for id in scene.crictl.ok(&["pods", "--quiet", "--name", "late"])?.lines() {
                scene.remove_pod(id)?;
            }
            scene.crictl.ok(&["rmi", "holdfast.test/zstd:1"]).ok();
        }
    }
    ensure!(refused > calls.len(), "only {refused} calls met the limit");
    // Not one to spare: not even a connection can be taken.
    limit(agent, with_spare(agent, 0)?)?;
    let before = processor_time(agent)?;
    let begun = Instant::now();
    let _ = scene.crictl.call(&["--timeout", "1s", "version"])?;
    let (spent, waited) = (processor_time(agent)?.saturating_sub(before), begun.elapsed());
    limit(agent, enough)?;
    ensure!(
        spent < waited / 4,
        "the agent used {spent:?} of a processor to wait {waited:?} for a descriptor"
    );
    wait::until_true("an agent that answers again", || {
        Ok(scene.crictl.call(&["version"])?.status.success())
    })?;
    ensure!(scene.crictl.json(&["inspect", &survivor])?["info"]["pid"] == pid, "another process");
    ensure!(scene.shell(&survivor, "echo alive")? == "alive");
    scene.remove_pod(&kept_id)?;
    oracle.nothing_left()
}
