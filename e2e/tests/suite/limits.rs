//! Limits are in force in the kernel, follow an update, and kill what exceeds them with the right reason.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
};
use serde_json::json;

#[test]
fn limits_are_in_force_and_follow_an_update() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "limits");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["resources"] = json!({
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "memory_limit_in_bytes": 104_857_600,
    });
    let id = scene.start(&pod_id, &pod, &container)?;
    let group = Group::of(&scene, &id)?;
    ensure!(group.memory()? == 104_857_600);
    ensure!(group.quota()? == (50_000, 100_000));
    ensure!(group.weight()? == if group.v2 { 59 } else { 512 }, "{}", group.weight()?);
    let resources = |name: &str| -> Result<String> {
        let status = scene.crictl.json(&["inspect", &id])?;
        let value = &status["status"]["resources"]["linux"][name];
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    ensure!(resources("memoryLimitInBytes")? == "104857600");

    scene.crictl.ok(&[
        "update",
        "--memory",
        "209715200",
        "--cpu-quota",
        "25000",
        "--cpu-period",
        "100000",
        &id,
    ])?;
    ensure!(group.memory()? == 209_715_200);
    ensure!(group.quota()? == (25_000, 100_000));
    ensure!(resources("memoryLimitInBytes")? == "209715200");
    scene.remove_pod(&pod_id)?;
    ensure!(group.gone(), "its cgroup is there after its end");
    oracle.nothing_left()
}

#[test]
fn too_much_memory_is_oom_killed() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "oom");
    let pod_id = scene.run_pod(&pod)?;
    // tail keeps the last line, which never ends: all of it.
    let mut container = container("main", BUSYBOX, &["sh", "-c", "exec tail /dev/zero"]);
    container["linux"]["resources"] =
        json!({"memory_limit_in_bytes": 15_728_640, "memory_swap_limit_in_bytes": 15_728_640});
    let id = scene.start(&pod_id, &pod, &container)?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 137 && status["reason"] == "OOMKilled", "{status}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A fork bomb under a limit: the other container goes on, and a stop works.
#[test]
fn a_limit_of_processes_holds_a_fork_bomb() -> Result<()> {
    let with_limit = |settings: &mut holdfast_e2e::agent::Settings| {
        settings.runtime = "pids_limit = 40".to_owned();
    };
    let Some(scene) = Scene::ours_with(with_limit)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "bomb");
    let pod_id = scene.run_pod(&pod)?;
    let bystander = scene.start(&pod_id, &pod, &sleeper("bystander", BUSYBOX))?;
    let bomb = container("bomb", BUSYBOX, &["sh", "-c", "b() { b | b & }; b; while :; do sleep 1; done"]);
    let id = scene.start(&pod_id, &pod, &bomb)?;
    ensure!(scene.crictl.ok(&["exec", "-s", &bystander, "echo", "fine"])? == "fine");
    scene.crictl.ok(&["stop", "--timeout", "0", &id])?;
    ensure!(scene.exited(&id)?["exitCode"] == 137);
    ensure!(scene.crictl.container_state(&bystander)? == "CONTAINER_RUNNING");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A pod's parent is where its containers are.
#[test]
fn a_given_parent_is_used() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let parent = scene.scope().cgroup.context("no parent")?;
    let below = match parent.strip_suffix(".slice") {
        Some(name) => format!("{name}-pod7.slice"),
        None => format!("{parent}/pod7"),
    };
    let mut pod = pod(&scene.dir, "parent");
    pod["linux"]["cgroup_parent"] = below.clone().into();
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let status = scene.crictl.json(&["inspect", &id])?;
    let pid = status["info"]["pid"].as_u64().context("no pid")?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(
        text.lines().any(|line| line.contains(&below) && line.contains(&id)),
        "{below} and {id} are not in\n{text}"
    );
    scene.remove_pod(&pod_id)?;
    // Who made the parent removes it; the kubelet does for its pods.
    holdfast_e2e::oracle::Scope { cgroup: Some(below), ..scene.scope() }.sweep();
    oracle.nothing_left()
}

/// Where the limits of a container are.
struct Group {
    v2: bool,
    memory: PathBuf,
    cpu: PathBuf,
}

impl Group {
    fn of(scene: &Scene, id: &str) -> Result<Self> {
        let status = scene.crictl.json(&["inspect", id])?;
        let pid = status["info"]["pid"].as_u64().context("no pid")?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = |controller: &str| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                parts.next()?.split(',').any(|name| name == controller).then(|| parts.next())?
            })
        };
        let path_of = |controller: &str| {
            path(controller).map(|path| PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}")))
        };
        if let (Some(memory), Some(cpu)) = (path_of("memory"), path_of("cpu")) {
            return Ok(Self { v2: false, memory, cpu });
        }
        let unified = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2")?;
        let group = PathBuf::from(format!("/sys/fs/cgroup{unified}"));
        Ok(Self { v2: true, memory: group.clone(), cpu: group })
    }

    fn memory(&self) -> Result<u64> {
        let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
        number(&fs::read_to_string(self.memory.join(file))?)
    }

    fn quota(&self) -> Result<(u64, u64)> {
        if self.v2 {
            let text = fs::read_to_string(self.cpu.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ').context("cpu.max")?;
            return Ok((number(quota)?, number(period)?));
        }
        let read = |file: &str| number(&fs::read_to_string(self.cpu.join(file))?);
        Ok((read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?))
    }

    fn weight(&self) -> Result<u64> {
        let file = if self.v2 { "cpu.weight" } else { "cpu.shares" };
        number(&fs::read_to_string(self.cpu.join(file))?)
    }

    fn gone(&self) -> bool {
        !self.memory.exists() && !self.cpu.exists()
    }
}

fn number(text: &str) -> Result<u64> {
    text.trim().parse().with_context(|| format!("{text:?} is no number"))
}
