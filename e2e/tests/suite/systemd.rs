//! The systemd driver: what systemd is asked for, what it leaves alone, and what is left when something is refused. On cgroup
//! v2 with systemd only, so in the machine of `cargo x vm`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    agent::Settings,
    grpc::{self, Message},
    place, process,
    scene::BUSYBOX,
    specs::{pod, sleeper},
};
use serde_json::{Value, json};

/// A scene whose agent has the systemd driver.
fn scene() -> Result<Option<Scene>> {
    scene_with(|_| {})
}

fn scene_with(change: impl FnOnce(&mut Settings)) -> Result<Option<Scene>> {
    let Some(scene) = Scene::ours_with(change)? else { return Ok(None) };
    if scene.scope().cgroup.is_some_and(|parent| parent.strip_suffix(".slice").is_some()) {
        return Ok(Some(scene));
    }
    println!("SKIP: this host has no systemd on cgroup v2");
    Ok(None)
}

/// The directory of a container's scope.
fn group(scene: &Scene, id: &str) -> Result<PathBuf> {
    let pid = scene.crictl.json(&["inspect", id])?["info"]["pid"].as_u64().context("no pid")?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    ensure!(path.ends_with(&format!("cri-holdfast-{id}.scope")), "{path}");
    Ok(Path::new("/sys/fs/cgroup").join(path))
}

fn read(group: &Path, files: &[&str]) -> Result<BTreeMap<String, String>> {
    let one = |file: &&str| {
        let text = fs::read_to_string(group.join(file)).with_context(|| format!("read {file}"))?;
        Ok(((*file).to_owned(), text.trim().to_owned()))
    };
    files.iter().map(one).collect()
}

fn systemctl(args: &[&str]) -> Result<String> {
    process::stdout("systemctl", args)
}

/// Of the units and jobs of systemd those that are containers'.
fn leftovers() -> Result<Vec<String>> {
    let all = ["list-units", "list-jobs"].map(|list| systemctl(&[list, "--all", "--plain", "--no-legend"]));
    let mut found = Vec::new();
    for text in all {
        found.extend(text?.lines().filter(|line| line.contains("cri-holdfast-")).map(str::to_owned));
    }
    Ok(found)
}

/// A limit that the kernel or systemd refuses is answered at once, and neither a scope nor a job to stop it
/// is left.
#[test]
fn a_refused_limit_leaves_no_job() -> Result<()> {
    let Some(scene) = scene()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "refused");
    let pod_id = scene.run_pod(&pod)?;
    for resources in [
        json!({"cpuset_cpus": "8000"}),
        json!({"cpuset_mems": "900"}),
        json!({"unified": {"memory.high": "x"}}),
        json!({"unified": {"cpu.weight": "20000"}}),
        json!({"unified": {"memory.nothing": "1"}}),
        json!({"unified": {"io.max": "250:250 rbps=1000000"}}),
        json!({"hugepage_limits": [{"page_size": "3MB", "limit": 0}]}),
    ] {
        let mut container = sleeper("main", BUSYBOX);
        container["linux"]["resources"] = resources.clone();
        let (file, pod_file) = scene.create_files(&pod, &container)?;
        let begin = Instant::now();
        let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
        let took = begin.elapsed();
        ensure!(refusal.code == "InvalidArgument", "{resources}: {}", refusal.text);
        ensure!(took < Duration::from_secs(2) * place::slowness(), "{resources}: after {took:?}");
        ensure!(leftovers()?.is_empty(), "{resources}: {:?}", leftovers()?);
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

const WRITTEN_BACK: &[&str] = &[
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "io.weight",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.oom.group",
    "memory.swap.max",
    "pids.max",
];

/// At a reload systemd writes what it knows to the files: that has to be what was asked for, at the start, by an update,
/// and by the name of a file.
#[test]
fn a_reload_changes_no_limit() -> Result<()> {
    let with_limit = |settings: &mut Settings| settings.runtime = "pids_limit = 100".to_owned();
    let Some(scene) = scene_with(with_limit)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "reload");
    let pod_id = scene.run_pod(&pod)?;
    let start = |name: &str, resources: Value| -> Result<(String, PathBuf)> {
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["resources"] = resources;
        let id = scene.start(&pod_id, &pod, &container)?;
        let group = group(&scene, &id)?;
        Ok((id, group))
    };
    let (by_fields, fields) = start(
        "fields",
        json!({
            "cpu_period": 50_000, "cpu_quota": 25_000, "cpu_shares": 512, "cpuset_cpus": "0", "cpuset_mems": "0",
            "memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 96 << 20,
        }),
    )?;
    let unified = json!({
        "cpu.max": "30000 100000", "cpu.weight": "79", "cpuset.cpus": "0", "io.weight": "default 200",
        "memory.high": "33554432", "memory.low": "1048576", "memory.max": "67108864", "memory.oom.group": "1",
        "memory.swap.max": "0", "pids.max": "50",
    });
    let (by_files, files) = start("files", json!({ "unified": unified }))?;
    let (_, idle) = start("idle", json!({"cpu_shares": 512, "unified": {"cpu.idle": "1"}}))?;
    let (_, fraction) = start("fraction", json!({"cpu_period": 100_000, "cpu_quota": 12_345}))?;
    ensure!(read(&fraction, &["cpu.max"])?.values().eq(["12345 100000"]));
    let look = || -> Result<Vec<BTreeMap<String, String>>> {
        let mut all = vec![read(&fields, WRITTEN_BACK)?, read(&files, WRITTEN_BACK)?];
        all.push(read(&idle, &["cpu.idle", "cpu.weight", "pids.max"])?);
        Ok(all)
    };
    let asked = look()?;
    ensure!(asked[0]["cpu.max"] == "25000 50000" && asked[0]["cpu.weight"] == "59", "{:?}", asked[0]);
    ensure!(asked[0]["memory.swap.max"] == (32 << 20).to_string(), "{:?}", asked[0]);
    for (file, value) in unified.as_object().context("an object")? {
        ensure!(asked[1][file] == value.as_str().unwrap_or_default(), "{file}: {}", asked[1][file]);
    }
    ensure!(asked[2]["cpu.idle"] == "1" && asked[2]["pids.max"] == "100", "{:?}", asked[2]);
    systemctl(&["daemon-reload"])?;
    let now = look()?;
    ensure!(now == asked, "{asked:?} became {now:?}");
    // systemd keeps whole percents: never less than was asked for.
    let kept = read(&fraction, &["cpu.max"])?;
    ensure!(["12345 100000", "13000 100000"].contains(&kept["cpu.max"].as_str()), "{kept:?}");

    let socket = scene.socket()?;
    let update = |id: &str, resources: &Message| {
        let request = Message::default().text(1, id).message(2, resources);
        grpc::call(&socket, "/runtime.v1.RuntimeService/UpdateContainerResources", &request).map(drop)
    };
    update(&by_fields, &Message::default().number(1, 100_000).number(2, 70_000).number(4, 128 << 20))?;
    let entry = Message::default().text(1, "cpu.max").text(2, "max 100000");
    update(&by_files, &Message::default().message(9, &entry))?;
    let asked = look()?;
    ensure!(asked[0]["cpu.max"] == "70000 100000" && asked[0]["memory.swap.max"] == "0", "{:?}", asked[0]);
    ensure!(asked[1]["cpu.max"] == "max 100000", "{:?}", asked[1]);
    systemctl(&["daemon-reload"])?;
    let now = look()?;
    ensure!(now == asked, "{asked:?} became {now:?}");
    scene.remove_pod(&pod_id)?;
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    oracle.nothing_left()
}

/// Limits that no property stands for, and an order in which the kernel takes them.
#[test]
fn files_of_v2_that_depend_on_one_another() -> Result<()> {
    let Some(scene) = scene()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "order");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["resources"] = json!({
        "cpu_shares": 512,
        "unified": {"cgroup.max.depth": "3", "cgroup.max.descendants": "7", "cpu.idle": "1", "cpu.max.burst": "1000",
                    "cpu.max": "5000 100000"},
    });
    let id = scene.start(&pod_id, &pod, &container)?;
    let found = read(
        &group(&scene, &id)?,
        &["cgroup.max.depth", "cgroup.max.descendants", "cpu.idle", "cpu.max.burst"],
    )?;
    ensure!(found.values().eq(["3", "7", "1", "1000"]), "{found:?}");
    // Shares for a group that is idle change nothing, and it gets its weight when it is idle no more.
    scene.crictl.ok(&["update", "--cpu-share", "1024", &id])?;
    let entry = Message::default().text(1, "cpu.idle").text(2, "0");
    let resources = Message::default().number(3, 1024).message(9, &entry);
    let request = Message::default().text(1, &id).message(2, &resources);
    grpc::call(&scene.socket()?, "/runtime.v1.RuntimeService/UpdateContainerResources", &request)?;
    let found = read(&group(&scene, &id)?, &["cpu.idle", "cpu.weight"])?;
    ensure!(found.values().eq(["0", "100"]), "{found:?}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A manager that was executed anew is a new peer on the bus: the connection that is kept goes on with it.
#[test]
fn systemd_is_executed_anew() -> Result<()> {
    let Some(scene) = scene()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "reexec");
    let pod_id = scene.run_pod(&pod)?;
    let old = scene.start(&pod_id, &pod, &sleeper("old", BUSYBOX))?;
    let usual = Instant::now();
    scene.start(&pod_id, &pod, &sleeper("usual", BUSYBOX))?;
    let usual = usual.elapsed();
    systemctl(&["daemon-reexec"])?;
    for round in 0..3 {
        let begin = Instant::now();
        scene.start(&pod_id, &pod, &sleeper(&format!("new{round}"), BUSYBOX))?;
        println!("a start took {usual:?}, after daemon-reexec {:?}", begin.elapsed());
    }
    ensure!(scene.crictl.container_state(&old)? == "CONTAINER_RUNNING");
    scene.remove_pod(&pod_id)?;
    ensure!(leftovers()?.is_empty(), "{:?}", leftovers()?);
    oracle.nothing_left()
}
