//! RuntimeClass handlers: pods whose containers another OCI runtime makes, runc and crun in their real form.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Oracle, Scene, place, process,
    scene::BUSYBOX,
    specs::{self, PID_POD, container, pod, sleeper, with_user_namespace},
    terminal::Terminal,
    wait,
};
use serde_json::{Value, json};

use crate::image_volumes::takes_no_writes;
use crate::security_modules::{
    DEFAULT_PROFILE, confinement, confinement_of_init, has_apparmor, has_selinux, init, label,
};

/// A real runtime, under whose name the agent knows it.
struct Oci {
    name: &'static str,
    program: PathBuf,
    /// Why it cannot be had here.
    missing: fn() -> Option<&'static str>,
}

fn runc() -> Oci {
    let missing =
        || (!place::runc().exists() && !place::driven()).then_some("runc is not there: run cargo x test");
    Oci { name: "runc", program: place::runc(), missing }
}

fn crun() -> Oci {
    let missing = || {
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return Some("crun refuses hybrid cgroups: see cargo x vm");
        }
        (!place::crun().exists()).then_some("crun is not there: install Debian's package")
    };
    Oci { name: "crun", program: place::crun(), missing }
}

/// The same tests for both.
macro_rules! with_each {
    ($($test:ident),* $(,)?) => {
        with_each!(runc: $($test),*);
        with_each!(crun: $($test),*);
    };
    ($oci:ident: $($test:ident),*) => {
        mod $oci {
            $(#[test]
            fn $test() -> anyhow::Result<()> {
                super::$test(&super::$oci())
            })*
        }
    };
}

with_each!(
    the_whole_walk,
    it_shares_what_the_pod_shares,
    it_runs_in_the_pods_user_namespace,
    images_are_mounted,
    apparmor_or_selinux,
    a_terminal_and_its_input,
    the_agent_is_killed_while_it_runs,
    the_shim_is_killed,
    what_cannot_run_is_said_where_a_kubelet_looks_for_it,
    handlers_are_known_or_named,
    hooks_are_not_run_before_the_eyes_of_others,
);

/// A scene whose agent knows this runtime, a program that is not there, and one more name for the built-in one.
fn scene(oci: &Oci) -> Result<Option<Scene>> {
    if let Some(reason) = (oci.missing)() {
        println!("SKIP: {reason}");
        return Ok(None);
    }
    let program = oci.program.display();
    let scene = Scene::ours_with(|settings| {
        settings.runtime = format!(
            "{}\n[runtime.handlers.{}]\nruntime = \"{program}\"\n[runtime.handlers.gone]\nruntime = \"/no/such/runtime\"\n\
             [runtime.handlers.own]\nruntime = \"holdfast\"\n",
            settings.runtime, oci.name,
        );
        // The root of a user namespace reaches its bundle by path.
        let _ = fs::set_permissions(&settings.dir, fs::Permissions::from_mode(0o711));
    })?;
    Ok(scene)
}

/// What the runtime keeps of containers, by id.
fn kept(scene: &Scene, oci: &Oci) -> Result<BTreeSet<String>> {
    let agent = scene.agent.as_ref().context("an agent of ours")?;
    let dir = agent.settings.state().join("runtimes").join(oci.name);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // crun keeps compiled filters there as well.
    Ok(names.filter(|name| name != ".cache").collect())
}

/// The first use makes the runtime's own directory, which stays, as does what crun compiled of a filter.
fn oracle(scene: &Scene, oci: &Oci) -> Result<Oracle> {
    let pod = pod(&scene.dir, "warm-up");
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let pod_id = scene.run_pod_with(&pod, oci.name)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["seccomp"] = json!({"profile_type": 0});
    scene.start(&pod_id, &pod, &container)?;
    scene.remove_pod(&pod_id)?;
    scene.oracle()
}

fn running(scene: &Scene, oci: &Oci, pod: &Value, container: &Value) -> Result<(String, String)> {
    let pod_id = scene.run_pod_with(pod, oci.name)?;
    let id = scene.start(&pod_id, pod, container)?;
    Ok((pod_id, id))
}

fn pid_of(value: &Value) -> Result<i64> {
    value["info"]["pid"].as_i64().context("a pid in the verbose status")
}

fn the_whole_walk(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let crictl = &scene.crictl;
    let pod = pod(&scene.dir, "foreign");
    let pod_id = scene.run_pod_with(&pod, oci.name)?;
    ensure!(crictl.json(&["inspectp", &pod_id])?["status"]["runtimeHandler"] == oci.name);
    let script = "echo to stdout; echo to stderr >&2; trap 'echo bye; exit 7' TERM; while :; do sleep 1000 & wait; done";
    let mut container = container("main", BUSYBOX, &["sh", "-c", script]);
    container["linux"]["security_context"]["masked_paths"] = json!(["/proc/version"]);
    container["linux"]["security_context"]["seccomp"] = json!({"profile_type": 0});
    container["linux"]["resources"] = json!({"memory_limit_in_bytes": 100 << 20, "oom_score_adj": -900});
    let id = scene.create(&pod_id, &pod, &container)?;
    ensure!(crictl.container_state(&id)? == "CONTAINER_CREATED");
    ensure!(kept(&scene, oci)?.contains(&id), "{} knows of no container {id}", oci.name);
    crictl.ok(&["start", &id])?;
    let status = crictl.json(&["inspect", &id])?;
    ensure!(status["status"]["state"] == "CONTAINER_RUNNING", "{}", status["status"]);
    let spec = &status["info"]["runtimeSpec"];
    ensure!(spec["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO", "{spec}");

    let shell = |script: &str| crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    ensure!(shell("echo from exec; exit 0")? == "from exec");
    ensure!(!crictl.call(&["exec", "-s", &id, "sh", "-c", "exit 3"])?.status.success());
    ensure!(!crictl.call(&["exec", "-s", &id, "/no/such"])?.status.success());
    let late = crictl.refused(&["exec", "-s", "--timeout", "1", &id, "sleep", "4712"])?;
    ensure!(late.code == "DeadlineExceeded", "{late:?}");
    let status = shell("cat /proc/self/status")?;
    ensure!(status.contains("Seccomp:\t2"), "no filter: {status}");
    let null = fs::metadata("/dev/null")?;
    for process in ["1", "self"] {
        let own = shell(&format!("stat -L -c '%d:%i %t:%T' /proc/{process}/fd/0"))?;
        let host = format!("{}:{} ", null.dev(), null.ino());
        ensure!(own.ends_with(" 1:3") && !own.starts_with(&host), "stdin of {process} is the host's: {own}");
    }
    ensure!(shell("hostname")? == "foreign");
    ensure!(shell("wc -c < /proc/version")? == "0", "a masked path can be read");
    ensure!(!shell("ps")?.contains("sleep 4712"), "a late exec runs on");

    let mut screen =
        Terminal::spawn(&crictl.command(&["exec", "-it", &id, "sh", "-c", "PS1='ready> ' exec sh"]))?;
    screen.expect("ready> ")?;
    screen.send("tty; echo on a $((1+1))-way line\n")?;
    screen.expect("/dev/pts/")?;
    screen.expect("on a 2-way line")?;
    screen.send("exit 4\n")?;
    ensure!(screen.end()? != Some(0), "the session's exit code is lost");

    wait::until_true("both lines in the log", || Ok(crictl.ok(&["logs", &id])?.contains("to stdout")))?;
    let log = fs::read_to_string(scene.log(&pod, &container))?;
    ensure!(log.contains(" stdout F to stdout") && log.contains(" stderr F to stderr"), "{log}");
    let stats = crictl.json(&["stats", "-o", "json", &id])?;
    let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
    ensure!(memory.as_str().is_some_and(|bytes| bytes != "0"), "no memory in use: {stats}");
    for bytes in [64 << 20, 200 << 20] {
        crictl.ok(&["update", "--memory", &bytes.to_string(), &id])?;
        ensure!(memory_limit(pid_of(&crictl.json(&["inspect", &id])?)?)? == bytes);
    }

    crictl.ok(&["stop", "--timeout", "10", &id])?;
    let status = crictl.json(&["inspect", &id])?;
    ensure!(
        status["status"]["exitCode"] == 7 && status["status"]["reason"] == "Error",
        "{}",
        status["status"]
    );
    ensure!(crictl.ok(&["logs", &id])?.lines().last() == Some("bye"), "the last line is not in the log");
    ensure!(kept(&scene, oci)?.is_empty(), "{} still keeps {:?}", oci.name, kept(&scene, oci)?);
    crictl.ok(&["rm", &id])?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The limit of the memory group that a process is in, v1 or v2.
fn memory_limit(pid: i64) -> Result<u64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let v1 = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
    let file = if let Some(path) = v1 {
        format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
    } else {
        let path = groups.lines().find_map(|line| line.strip_prefix("0::")).context("a v2 group")?;
        format!("/sys/fs/cgroup{path}/memory.max")
    };
    Ok(fs::read_to_string(&file).with_context(|| format!("read {file}"))?.trim().parse()?)
}

fn it_shares_what_the_pod_shares(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let mut pod = pod(&scene.dir, "shared");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let mut writer = sleeper("writer", BUSYBOX);
    writer["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let mut reader = sleeper("reader", BUSYBOX);
    reader["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let (pod_id, writer) = running(&scene, oci, &pod, &writer)?;
    let reader = scene.start(&pod_id, &pod, &reader)?;
    let exec = |id: &str, script: &str| scene.crictl.ok(&["exec", "-s", id, "sh", "-c", script]);
    exec(&writer, "echo shared > /dev/shm/file")?;
    ensure!(exec(&reader, "cat /dev/shm/file")? == "shared");
    let holder = pid_of(&scene.crictl.json(&["inspectp", &pod_id])?)?;
    for id in [&writer, &reader] {
        let init = pid_of(&scene.crictl.json(&["inspect", id])?)?;
        for kind in ["net", "ipc", "uts", "pid"] {
            let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
            ensure!(of(holder)? == of(init)?, "{kind} of {id} is not the pod's");
        }
    }
    // A process that its first one leaves behind ends with the container.
    exec(&writer, "setsid sleep 4711 >/dev/null 2>&1 </dev/null & true")?;
    scene.crictl.ok(&["stop", "--timeout", "5", &writer])?;
    ensure!(!exec(&reader, "ps")?.contains("sleep 4711"), "something is left in the pod");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

fn it_runs_in_the_pods_user_namespace(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let mut pod = pod(&scene.dir, "mapped");
    with_user_namespace(&mut pod, 1_310_720);
    let volume = scene.dir.join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of the host\n")?;
    let mapping = json!([{"container_id": 0, "host_id": 1_310_720, "length": 65536}]);
    let mut container = sleeper("main", BUSYBOX);
    container["mounts"] = json!([{
        "container_path": "/data", "host_path": volume, "uidMappings": mapping, "gidMappings": mapping,
    }]);
    let (pod_id, id) = running(&scene, oci, &pod, &container)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    let map = shell("cat /proc/self/uid_map")?;
    ensure!(map.split_whitespace().collect::<Vec<_>>() == ["0", "1310720", "65536"], "{map}");
    ensure!(shell("id -u; stat -c %u /bin/busybox; touch /made && stat -c %u /made")? == "0\n0\n0");
    ensure!(shell("stat -c %u /data/file")? == "0", "the volume is not id-mapped");
    ensure!(shell("echo x > /dev/shm/x; cat /dev/shm/x; cat /etc/hostname")? == "x\nmapped");
    let pid = pid_of(&scene.crictl.json(&["inspect", &id])?)?;
    ensure!(fs::read_to_string(format!("/proc/{pid}/status"))?.contains("Uid:\t1310720"));
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Whole and in part, with the owners that the image gives, and never to be written to (KEP-4639).
fn images_are_mounted(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let image = scene.registry.image("layers:1");
    scene.crictl.ok(&["pull", &image])?;
    let volume = |part: &str, target: &str| json!({"container_path": target, "image": {"image": image}, "image_sub_path": part});
    let mut container = sleeper("main", BUSYBOX);
    container["mounts"] = json!([
        volume("", "/image"),
        volume("data", "/part"),
        volume("data/kept", "/file"),
        volume("data/link", "/link")
    ]);
    let mut mapped = pod(&scene.dir, "mapped-volumes");
    with_user_namespace(&mut mapped, 1_310_720);
    for pod in [pod(&scene.dir, "volumes"), mapped] {
        let (pod_id, id) = running(&scene, oci, &pod, &container)?;
        let script =
            "cat /image/data/replaced /file /link; stat -c '%u %g' /image/data/kept /part/kept /file";
        let shown = scene.shell(&id, script)?;
        ensure!(shown == "new1133 33\n33 33\n33 33", "{shown}");
        takes_no_writes(&scene, &id, &["/image/new", "/part/new", "/file"])?;
        scene.remove_pod(&pod_id)?;
    }
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// What the node's security module knows a container by comes with the bundle.
fn apparmor_or_selinux(oci: &Oci) -> Result<()> {
    if !has_apparmor() && !has_selinux() {
        println!("SKIP: this host has no AppArmor and no SELinux");
        return Ok(());
    }
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let pod = pod(&scene.dir, "confined");
    let volume = scene.dir.join("volume");
    fs::create_dir_all(volume.join("deep"))?;
    let mut container = sleeper("main", BUSYBOX);
    container["mounts"] =
        json!([{"container_path": "/data", "host_path": volume, "selinux_relabel": has_selinux()}]);
    let (pod_id, id) = running(&scene, oci, &pod, &container)?;
    let process = confinement_of_init(&scene, &id)?;
    let exec = confinement(&scene, &id)?;
    ensure!(exec.trim_end_matches('\0') == process, "{process:?}, exec: {exec:?}");
    if has_apparmor() {
        ensure!(process == format!("{DEFAULT_PROFILE} (enforce)"), "{process:?}");
    } else {
        let level = process.splitn(4, ':').nth(3).context("no level")?;
        ensure!(level.starts_with("s0:c") && level.contains(','), "{process:?}");
        let root = PathBuf::from(format!("/proc/{}/root", init(&scene, &id)?));
        for path in ["bin/sh", "etc/hosts", "dev", "dev/shm", "data/deep"] {
            let label = label(&root.join(path))?;
            ensure!(label.ends_with(level) && label.contains("_file_t"), "{path}: {label}, not {level}");
        }
    }
    scene.remove_pod(&pod_id)?;
    fs::remove_dir_all(volume)?;
    oracle.nothing_left()
}

fn a_terminal_and_its_input(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let pod = pod(&scene.dir, "tty");
    let mut container = container("main", BUSYBOX, &["sh", "-c", "PS1='ready> ' exec sh"]);
    container["tty"] = true.into();
    container["stdin"] = true.into();
    let (pod_id, id) = running(&scene, oci, &pod, &container)?;
    let mut screen = Terminal::spawn(&scene.crictl.command(&["attach", "-i", "-t", &id]))?;
    screen.send("tty; echo on a $((1+1))-way line\n")?;
    screen.expect("on a 2-way line")?;
    screen.send("exit 6\n")?;
    ensure!(scene.exited(&id)?["exitCode"] == 6);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

fn the_agent_is_killed_while_it_runs(oci: &Oci) -> Result<()> {
    let Some(mut scene) = scene(oci)? else { return Ok(()) };
    let mut oracle = oracle(&scene, oci)?;
    let pod = pod(&scene.dir, "runs");
    let script = "while [ ! -e /told/go ]; do sleep 0.02; done; echo last words; exit 5";
    let mut told = container("main", BUSYBOX, &["sh", "-c", script]);
    told["mounts"] = json!([{"container_path": "/told", "host_path": scene.dir}]);
    let (pod_id, id) = running(&scene, oci, &pod, &told)?;
    let created = scene.create(&pod_id, &pod, &container("created", BUSYBOX, &["sh", "-c", "exit 4"]))?;
    let before = scene.crictl.json(&["inspect", &id])?;
    scene.agent()?.crash()?;
    let after = scene.crictl.json(&["inspect", &id])?;
    ensure!(after["status"]["state"] == "CONTAINER_RUNNING", "{}", after["status"]);
    ensure!(pid_of(&after)? == pid_of(&before)?, "another process");
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "echo", "hello"])? == "hello");
    scene.crictl.ok(&["start", &created])?;
    ensure!(scene.exited(&created)?["exitCode"] == 4);
    fs::write(scene.dir.join("go"), "")?;
    ensure!(scene.exited(&id)?["exitCode"] == 5);
    ensure!(scene.crictl.ok(&["logs", &id])?.ends_with("last words"));
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// The agent gives back what the shim can give back no more.
fn the_shim_is_killed(oci: &Oci) -> Result<()> {
    let Some(mut scene) = scene(oci)? else { return Ok(()) };
    let mut oracle = oracle(&scene, oci)?;
    let pod = pod(&scene.dir, "shimless");
    let (pod_id, id) = running(&scene, oci, &pod, &sleeper("main", BUSYBOX))?;
    process::kill_only("holdfast-shim")?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 255 && status["reason"] == "ShimDied", "{status}");
    wait::until_true("it to keep nothing", || Ok(kept(&scene, oci)?.is_empty()))?;
    // And with no agent there to see it.
    let second = scene.start(&pod_id, &pod, &sleeper("second", BUSYBOX))?;
    scene.agent()?.kill9()?;
    process::kill_only("holdfast-shim")?;
    scene.agent()?.start_again()?;
    ensure!(scene.exited(&second)?["reason"] == "ShimDied");
    wait::until_true("it to keep nothing", || Ok(kept(&scene, oci)?.is_empty()))?;
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

fn what_cannot_run_is_said_where_a_kubelet_looks_for_it(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let crictl = &scene.crictl;
    let pod = pod(&scene.dir, "refused");
    let pod_id = scene.run_pod_with(&pod, oci.name)?;
    // A command that is not there: created, and its start fails, as with containerd.
    let id = scene.create(&pod_id, &pod, &container("missing", BUSYBOX, &["/no/such/command"]))?;
    ensure!(crictl.container_state(&id)? == "CONTAINER_CREATED");
    let refused = crictl.refused(&["start", &id])?;
    ensure!(refused.text.contains("/no/such/command"), "{refused:?}");
    let status = crictl.json(&["inspect", &id])?;
    let status = &status["status"];
    ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 128, "{status}");
    ensure!(status["reason"] == "StartError", "{status}");
    // One that is never started is removed all the same.
    let id = scene.create(&pod_id, &pod, &container("never", BUSYBOX, &["/no/such/command"]))?;
    crictl.ok(&["rm", &id])?;
    // A mount source that is not there is made; one that cannot be is named.
    let mut mounted = sleeper("mounted", BUSYBOX);
    mounted["mounts"] = json!([{"container_path": "/data", "host_path": scene.dir.join("made/deep")}]);
    let id = scene.create(&pod_id, &pod, &mounted)?;
    ensure!(scene.dir.join("made/deep").is_dir(), "the mount's source was not made");
    crictl.ok(&["rm", &id])?;
    std::os::unix::fs::symlink("nowhere", scene.dir.join("dangling"))?;
    mounted["mounts"] = json!([{"container_path": "/data", "host_path": scene.dir.join("dangling")}]);
    let (container, sandbox) = scene.create_files(&pod, &mounted)?;
    let refused = crictl.refused(&["create", &pod_id, &container, &sandbox])?;
    ensure!(refused.text.contains("dangling"), "{refused:?}");
    ensure!(kept(&scene, oci)?.is_empty(), "{} still keeps {:?}", oci.name, kept(&scene, oci)?);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

fn handlers_are_known_or_named(oci: &Oci) -> Result<()> {
    let Some(scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let crictl = &scene.crictl;
    let pod = pod(&scene.dir, "handlers");
    let file = specs::write(&scene.dir, &pod)?;
    let refused = |handler: &str| crictl.refused(&["runp", "--runtime", handler, &text(&file)]);
    let unknown = refused("kata")?;
    ensure!(unknown.text.contains("no runtime for") && unknown.text.contains("kata"), "{unknown:?}");
    ensure!(["gone", "own", oci.name].iter().all(|name| unknown.text.contains(name)), "{unknown:?}");
    let gone = refused("gone")?;
    ensure!(gone.text.contains("/no/such/runtime"), "{gone:?}");
    // One more name for our own stages.
    let pod_id = scene.run_pod_with(&pod, "own")?;
    ensure!(crictl.json(&["inspectp", &pod_id])?["status"]["runtimeHandler"] == "own");
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    ensure!(!kept(&scene, oci)?.contains(&id));
    scene.remove_pod(&pod_id)?;

    let info = crictl.json(&["info"])?;
    let handlers = info["runtimeHandlers"].as_array().context("no handlers in the status")?;
    let features = |name: &str| {
        let handler = handlers.iter().find(|handler| handler["name"].as_str().unwrap_or_default() == name);
        handler
            .map(|handler| handler["features"].clone())
            .with_context(|| format!("no handler {name:?}: {info}"))
    };
    ensure!(features("")? == features("own")?, "{info}");
    ensure!(features(oci.name)?["recursive_read_only_mounts"] == true, "{info}");
    ensure!(features(oci.name)?["user_namespaces"] == features("")?["user_namespaces"], "{info}");
    ensure!(features("gone")?["user_namespaces"] != true, "{info}");
    oracle.nothing_left()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// These run hooks inside the pod's pid namespace with the host's files around them: not beside one that could look.
fn hooks_are_not_run_before_the_eyes_of_others(oci: &Oci) -> Result<()> {
    let Some(mut scene) = scene(oci)? else { return Ok(()) };
    let oracle = oracle(&scene, oci)?;
    let specs = scene.agent()?.settings.cdi_spec_dirs()[0].clone();
    fs::create_dir_all(&specs)?;
    // Their working directory is the runtime's choice.
    let script =
        r#"bundle=$(sed 's/.*"bundle": *"\([^"]*\)".*/\1/') && echo ran > "$bundle/rootfs/of-the-hook""#;
    let hook = json!({"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", script]});
    let device = json!({"name": "one", "containerEdits": {"hooks": [hook]}});
    let spec = json!({"cdiVersion": "0.7.0", "kind": "vendor.test/hooked", "devices": [device]});
    fs::write(specs.join("hooked.json"), spec.to_string())?;
    let mut pod = pod(&scene.dir, "in-sight");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let pod_id = scene.run_pod_with(&pod, oci.name)?;
    let mut spy = sleeper("spy", BUSYBOX);
    spy["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    spy["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE"]});
    let spy = scene.start(&pod_id, &pod, &spy)?;
    let hooked = |name: &str, options: Value| {
        let mut container = sleeper(name, BUSYBOX);
        container["CDI_devices"] = json!([{"name": "vendor.test/hooked=one"}]);
        container["linux"]["security_context"]["namespace_options"] = options;
        container
    };
    for options in [json!({"pid": PID_POD}), json!({"pid": specs::PID_TARGET, "target_id": spy})] {
        let (container, config) = scene.create_files(&pod, &hooked("refused", options))?;
        let refused = scene.crictl.refused(&["create", &pod_id, &container, &config])?;
        ensure!(refused.code == "FailedPrecondition", "{refused:?}");
        ensure!(refused.text.contains("SYS_PTRACE") && refused.text.contains(&spy), "{refused:?}");
    }
    let runs = |name: &str, options: Value| -> Result<()> {
        let id = scene.start(&pod_id, &pod, &hooked(name, options))?;
        ensure!(scene.shell(&id, "cat /of-the-hook")? == "ran", "{name}");
        Ok(())
    };
    // Where it cannot look, or does not any more.
    runs("apart", json!({"pid": specs::PID_CONTAINER}))?;
    scene.crictl.ok(&["stop", "--timeout", "10", &spy])?;
    runs("alone", json!({"pid": PID_POD}))?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
