//! Limits are in force in the kernel, follow an update, and kill what exceeds them with the right reason.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, place,
    scene::BUSYBOX,
    specs::{NODE, PID_POD, container, pod, sleeper},
    wait,
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
    // The first process forks nothing itself any more: a shell that cannot ends.
    let bomb = container("bomb", BUSYBOX, &["sh", "-c", "b() { b | b & }; b & exec sleep 3600"]);
    let id = scene.start(&pod_id, &pod, &bomb)?;
    ensure!(scene.crictl.ok(&["exec", "-s", &bystander, "echo", "fine"])? == "fine");
    scene.crictl.ok(&["stop", "--timeout", "0", &id])?;
    ensure!(scene.exited(&id)?["exitCode"] == 137);
    ensure!(scene.crictl.container_state(&bystander)? == "CONTAINER_RUNNING");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A container that somebody has frozen: an exec keeps its time limit, what it left dies after the thaw, and the container
/// can be stopped without one.
#[test]
fn a_frozen_container_holds_up_nobody() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "frozen");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let group = Group::of(&scene, &id)?;
    group.freeze(true)?;
    let begin = Instant::now();
    let refused = scene.crictl.call(&["exec", "-s", "--timeout", "3", &id, "sleep", "4321"])?;
    ensure!(!refused.status.success(), "it ran in a frozen container");
    ensure!(begin.elapsed() < Duration::from_secs(10) * place::slowness(), "after {:?}", begin.elapsed());
    group.freeze(false)?;
    wait::until_true("the exec to be gone", || Ok(!scene.shell(&id, "ps")?.contains("sleep 4321")))?;
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "echo", "on"])? == "on");
    group.freeze(true)?;
    let begin = Instant::now();
    scene.crictl.ok(&["stop", "--timeout", "1", &id])?;
    ensure!(begin.elapsed() < Duration::from_secs(10) * place::slowness(), "after {:?}", begin.elapsed());
    ensure!(scene.status(&id)?["exitCode"] == 137, "{}", scene.status(&id)?);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Without a pid namespace of its own a container ends with all that it started, in whatever groups below its own.
#[test]
fn groups_below_end_with_their_container() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for (name, mode, marker) in [("shared", PID_POD, "4322"), ("of-the-node", NODE, "4323")] {
        let mut pod = pod(&scene.dir, name);
        let security = &mut pod["linux"]["security_context"];
        security["privileged"] = true.into();
        security["namespace_options"]["pid"] = mode.into();
        let pod_id = scene.run_pod(&pod)?;
        // The group is where we are, by whatever path it is seen: with a cgroup namespace or without, v1 or v2.
        let script = format!(
            "v1=$(sed -n 's/^[0-9]*:pids://p' /proc/self/cgroup); v2=$(sed -n 's/^0:://p' /proc/self/cgroup); \
             cd /sys/fs/cgroup; for g in ./pids$v1 ./pids .$v2 .; do \
             grep -qx $$ $g/cgroup.procs 2>/dev/null && break; done; \
             mkdir $g/below || exit 9; setsid sleep {marker} & echo $! >$g/below/cgroup.procs || exit 8; exit 5"
        );
        let mut spec = container("main", BUSYBOX, &["sh", "-c", &script]);
        spec["linux"]["security_context"] = json!({"privileged": true, "namespace_options": {"pid": mode}});
        let id = scene.start(&pod_id, &pod, &spec)?;
        let status = scene.exited(&id)?;
        ensure!(status["exitCode"] == 5, "{name}: {status} {}", scene.crictl.ok(&["logs", &id])?);
        ensure!(!runs(&["sleep", marker]), "{name}: what it left runs on");
        scene.remove_pod(&pod_id)?;
    }
    oracle.nothing_left()
}

/// Whether a process with these arguments is anywhere on the machine.
fn runs(command: &[&str]) -> bool {
    let wanted = command.iter().map(|word| format!("{word}\0")).collect::<Vec<_>>().concat();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line == wanted.as_bytes())
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
    /// Directory of its freezer.
    freezer: PathBuf,
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
            let freezer = path_of("freezer").context("no freezer")?;
            return Ok(Self { v2: false, memory, cpu, freezer });
        }
        let unified = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2")?;
        let group = PathBuf::from(format!("/sys/fs/cgroup{unified}"));
        Ok(Self { v2: true, memory: group.clone(), cpu: group.clone(), freezer: group })
    }

    fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, state) = match (self.v2, frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        fs::write(self.freezer.join(file), state)?;
        wait::until_true("the group to freeze or thaw", || {
            if self.v2 {
                let events = fs::read_to_string(self.freezer.join("cgroup.events"))?;
                return Ok(events.contains(&format!("frozen {}", u8::from(frozen))));
            }
            Ok(fs::read_to_string(self.freezer.join(file))?.trim() == state)
        })
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
