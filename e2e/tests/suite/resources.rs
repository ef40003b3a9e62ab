//! Every limit of a request in the cgroup's files, at the start and after an update, and in the status.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    grpc::{self, Message},
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// The control files of a container.
struct Files {
    v2: bool,
    membership: String,
}

impl Files {
    fn of(scene: &Scene, id: &str) -> Result<Self> {
        let status = scene.crictl.json(&["inspect", id])?;
        let pid = status["info"]["pid"].as_u64().context("no pid")?;
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let v1 = membership.lines().any(|line| line.split(':').nth(1) == Some("memory"));
        Ok(Self { v2: !v1, membership })
    }

    fn directory(&self, controller: &str) -> Result<PathBuf> {
        let of = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let names = parts.next()?;
            let found =
                if self.v2 { names.is_empty() } else { names.split(',').any(|name| name == controller) };
            found.then(|| parts.next().map(str::to_owned))?
        };
        let path = self.membership.lines().find_map(of).with_context(|| format!("no {controller}"))?;
        let root = if self.v2 { "/sys/fs/cgroup".into() } else { format!("/sys/fs/cgroup/{controller}") };
        Ok(PathBuf::from(format!("{root}{path}")))
    }

    /// One file, which has another name on v2.
    fn read(&self, controller: &str, v1: &str, v2: &str) -> Result<String> {
        let file = self.directory(controller)?.join(if self.v2 { v2 } else { v1 });
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Memory, and memory with swap, in MiB.
    fn memory(&self) -> Result<(u64, u64)> {
        let mib = |text: String| text.parse::<u64>().map(|bytes| bytes / MIB).context(text);
        let memory = mib(self.read("memory", "memory.limit_in_bytes", "memory.max")?)?;
        let swap = mib(self.read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")?)?;
        Ok((memory, if self.v2 { memory + swap } else { swap }))
    }

    /// Quota and period.
    fn quota(&self) -> Result<String> {
        if self.v2 {
            return self.read("cpu", "", "cpu.max");
        }
        let part = |file| self.read("cpu", file, "");
        Ok(format!("{} {}", part("cpu.cfs_quota_us")?, part("cpu.cfs_period_us")?))
    }
}

#[test]
fn every_limit_is_in_force_and_told() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "resources");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["resources"] = json!({
        "cpu_period": 50_000, "cpu_quota": 25_000, "cpu_shares": 512,
        "memory_limit_in_bytes": 64 * MIB, "memory_swap_limit_in_bytes": 96 * MIB,
        "oom_score_adj": 321, "cpuset_cpus": "0", "cpuset_mems": "0",
    });
    let id = scene.start(&pod_id, &pod, &container)?;
    let files = Files::of(&scene, &id)?;
    ensure!(files.quota()? == "25000 50000", "{}", files.quota()?);
    let shares = files.read("cpu", "cpu.shares", "cpu.weight")?;
    ensure!(shares == if files.v2 { "59" } else { "512" }, "{shares}");
    ensure!(files.memory()? == (64, 96), "{:?}", files.memory()?);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        ensure!(files.read("cpuset", file, file)? == "0", "{file}");
    }
    for process in ["1", "self"] {
        let score = scene.shell(&id, &format!("cat /proc/{process}/oom_score_adj"))?;
        ensure!(score == "321", "{process}: {score}");
    }
    let echoed = |wanted: &[(&str, &str)]| -> Result<()> {
        let told = &scene.status(&id)?["resources"]["linux"];
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        wanted.iter().try_for_each(|(field, value)| {
            ensure!(text(&told[*field]) == *value, "{field} is not {value}: {told}");
            Ok(())
        })
    };
    echoed(&[
        ("cpuPeriod", "50000"),
        ("cpuQuota", "25000"),
        ("cpuShares", "512"),
        ("memoryLimitInBytes", "67108864"),
        ("memorySwapLimitInBytes", "100663296"),
        ("oomScoreAdj", "321"),
        ("cpusetCpus", "0"),
        ("cpusetMems", "0"),
    ])?;

    // What crictl can say of an update, and what only a kubelet does.
    let cpus = if std::thread::available_parallelism()?.get() > 1 { "0-1" } else { "0" };
    let update = ["update", "--cpu-share", "1024", "--cpuset-cpus", cpus, "--cpuset-mems", "0", &id];
    scene.crictl.ok(&update)?;
    let resources = Message::default()
        .number(1, 100_000)
        .number(2, -1)
        .number(4, (128 * MIB) as i64)
        .number(10, (256 * MIB) as i64);
    let request =
        Message::default().text(1, &id).message(2, &resources).message(4, &annotation("note", "kept out"));
    let socket = scene.socket()?;
    grpc::call(&socket, "/runtime.v1.RuntimeService/UpdateContainerResources", &request)?;
    let shares = files.read("cpu", "cpu.shares", "cpu.weight")?;
    ensure!(shares == if files.v2 { "100" } else { "1024" }, "{shares}");
    ensure!(files.read("cpuset", "cpuset.cpus", "cpuset.cpus")? == cpus);
    let quota = files.quota()?;
    ensure!(quota == if files.v2 { "max 100000" } else { "-1 100000" }, "{quota}");
    ensure!(files.memory()? == (128, 256), "{:?}", files.memory()?);
    echoed(&[
        ("cpuPeriod", "100000"),
        ("cpuQuota", "-1"),
        ("cpuShares", "1024"),
        ("memoryLimitInBytes", "134217728"),
        ("memorySwapLimitInBytes", "268435456"),
        ("cpusetCpus", cpus),
    ])?;
    // What cannot be is refused, and leaves what was.
    let refused = Message::default().number(4, -7);
    let request = Message::default().text(1, &id).message(2, &refused);
    ensure!(grpc::call(&socket, "/runtime.v1.RuntimeService/UpdateContainerResources", &request).is_err());
    ensure!(files.memory()? == (128, 256), "{:?}", files.memory()?);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// An entry of a map of texts.
fn annotation(key: &str, value: &str) -> Message {
    Message::default().text(1, key).text(2, value)
}

/// A memory limit alone is one of memory and swap together, by an update as well: nothing swaps by chance.
#[test]
fn a_memory_limit_is_one_of_swap_as_well() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "swap");
    let pod_id = scene.run_pod(&pod)?;
    for (name, swap) in [("alone", None), ("both", Some(96 * MIB))] {
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["resources"] = json!({"memory_limit_in_bytes": 64 * MIB});
        if let Some(swap) = swap {
            container["linux"]["resources"]["memory_swap_limit_in_bytes"] = swap.into();
        }
        let id = scene.start(&pod_id, &pod, &container)?;
        let files = Files::of(&scene, &id)?;
        let Ok(found) = files.memory() else {
            scene.remove_pod(&pod_id)?;
            println!("SKIP: this kernel does not count swap");
            return Ok(());
        };
        ensure!(found == (64, if swap.is_some() { 96 } else { 64 }), "{name}: {found:?}");
        scene.crictl.ok(&["update", "--memory", &(128 * MIB).to_string(), &id])?;
        ensure!(files.memory()? == (128, 128), "{name}: {:?}", files.memory()?);
        let told = &scene.crictl.json(&["inspect", &id])?["status"]["resources"]["linux"];
        ensure!(told["memorySwapLimitInBytes"] == "134217728", "{name}: {told}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A limit that the kernel refuses is the request's fault, and nothing is left of it.
#[test]
fn a_limit_that_the_machine_has_not() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "refused");
    let pod_id = scene.run_pod(&pod)?;
    for resources in [json!({"cpuset_cpus": "8000"}), json!({"cpuset_mems": "900"})] {
        let mut container = sleeper("main", BUSYBOX);
        container["linux"]["resources"] = resources.clone();
        let (file, pod_file) = scene.create_files(&pod, &container)?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
        ensure!(refusal.code == "InvalidArgument", "{resources}: {}", refusal.text);
    }
    ensure!(scene.crictl.ok(&["ps", "-a", "-q", "--pod", &pod_id])?.is_empty());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Files of cgroup v2 by their names, huge pages of every size, at the start and by an update.
#[test]
fn unified_files_and_huge_pages() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "unified");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["resources"] =
        json!({"unified": {"memory.oom.group": "1", "memory.high": "33554432"}});
    let (file, pod_file) = scene.create_files(&pod, &container)?;
    let output = scene.crictl.call(&["create", &pod_id, &file, &pod_file])?;
    if !output.status.success() {
        // On v1 there are no such files: said by name, and nothing is made.
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("unified") && text.contains("cgroup v2"), "{text}");
        scene.remove_pod(&pod_id)?;
        oracle.nothing_left()?;
        println!("SKIP: this host has no cgroup v2 with its controllers: no unified files, no huge pages");
        return Ok(());
    }
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    scene.crictl.ok(&["start", &id])?;
    let files = Files::of(&scene, &id)?;
    ensure!(files.read("memory", "", "memory.oom.group")? == "1");
    ensure!(files.read("memory", "", "memory.high")? == "33554432");
    let socket = scene.socket()?;
    let size = Message::default().text(1, "2MB").number(2, 4 << 20);
    let resources = Message::default().message(8, &size).message(9, &annotation("memory.high", "50331648"));
    let request = Message::default().text(1, &id).message(2, &resources);
    grpc::call(&socket, "/runtime.v1.RuntimeService/UpdateContainerResources", &request)?;
    ensure!(files.read("memory", "", "memory.high")? == "50331648");
    let told = &scene.status(&id)?["resources"]["linux"];
    ensure!(
        told["unified"]["memory.high"] == "50331648" && told["unified"]["memory.oom.group"] == "1",
        "{told}"
    );
    ensure!(told["hugepageLimits"][0] == json!({"pageSize": "2MB", "limit": "4194304"}), "{told}");
    let controllers = files.read("hugetlb", "", "cgroup.controllers")?;
    if controllers.split(' ').any(|name| name == "hugetlb") {
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
            ensure!(files.read("hugetlb", "", file)? == "4194304", "{file}");
        }
        let mut limited = sleeper("pages", BUSYBOX);
        limited["linux"]["resources"] = json!({"hugepage_limits": [{"page_size": "2MB", "limit": 0}]});
        let id = scene.start(&pod_id, &pod, &limited)?;
        let files = Files::of(&scene, &id)?;
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
            ensure!(files.read("hugetlb", "", file)? == "0", "{file}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The configuration's ulimits are those of a container's first process and of its execs.
#[test]
fn limits_of_processes_come_from_the_configuration() -> Result<()> {
    let with_limits = |settings: &mut holdfast_e2e::agent::Settings| {
        settings.runtime = "default_ulimits = [\"nofile=1234:2345\", \"core=0\"]".to_owned();
    };
    let Some(scene) = Scene::ours_with(with_limits)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "ulimits");
    let pod_id = scene.run_pod(&pod)?;
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c";
    let printing = container("printing", BUSYBOX, &["sh", "-c", script]);
    let id = scene.start(&pod_id, &pod, &printing)?;
    scene.exited(&id)?;
    ensure!(scene.crictl.ok(&["logs", &id])? == "1234\n2345\n0");
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    ensure!(scene.shell(&id, script)? == "1234\n2345\n0");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
