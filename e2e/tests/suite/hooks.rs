//! OCI hooks of the configuration: when they run, where, what they are told, and what becomes of those that fail.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, place, process,
    scene::BUSYBOX,
    specs::{PID_POD, container, pod, sleeper, with_user_namespace},
    wait,
};
use serde_json::{Value, json};

use crate::mounts::HostMount;

const STAGES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Writes a line of JSON for each call: who it is, where it is, and what it was told.
const SCRIPT: &str = r#"#!/bin/sh
state=$(cat)
ns() { readlink /proc/self/ns/$1; }
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
seen=no; [ -e "$bundle/rootfs/bin/busybox" ] && seen=yes
own=no; [ -e "$bundle/rootfs/proc/self" ] && own=yes
image=no; [ -x /bin/busybox ] && [ ! -e /usr/bin/apt-get ] && image=yes
echo "{\"stage\":\"$1\",\"net\":\"$(ns net)\",\"mnt\":\"$(ns mnt)\",\"pid\":\"$(ns pid)\",\"rootfs\":\"$seen\",\"mounts\":\"$own\",\"image\":\"$image\",\"state\":$state}" >> DIR/calls
case $1 in FAILS) echo "the reason is $1" >&2; exit 3;; SLEEPS) sleep 600;; esac
"#;

/// A scene whose agent has a hook for each stage; those whose stage is `fails` end with 3, at `sleeps` with none.
fn scene(fails: &str, sleeps: &str, limit_s: u32) -> Result<Option<Scene>> {
    Scene::ours_with(|settings| {
        let dir = settings.dir.join("hooks");
        // A scene that cannot be written is one whose test fails.
        let _ = write(&dir, fails, sleeps, limit_s);
        settings.runtime = format!("{}\nhooks_dirs = [\"{}\"]\n", settings.runtime, dir.display());
        let _ = fs::set_permissions(&settings.dir, fs::Permissions::from_mode(0o711));
    })
}

fn write(dir: &Path, fails: &str, sleeps: &str, limit_s: u32) -> Result<()> {
    fs::create_dir_all(dir)?;
    let script = dir.join("hook.sh");
    let text =
        SCRIPT.replace("DIR", &dir.to_string_lossy()).replace("FAILS", fails).replace("SLEEPS", sleeps);
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::write(dir.join("calls"), "")?;
    fs::set_permissions(dir.join("calls"), fs::Permissions::from_mode(0o666))?;
    for stage in STAGES {
        let file = json!({
            "version": "1.0.0",
            "hook": {"path": script, "args": ["hook.sh", stage], "timeout": limit_s},
            "when": {"annotations": {"^holdfast\\.test/hooks$": "^yes$"}},
            "stages": [stage],
        });
        fs::write(dir.join(format!("{stage}.json")), file.to_string())?;
    }
    Ok(())
}

/// A container that gets the hooks. The directory is mounted at its own path, for the hook in the container's root.
fn hooked(scene: &Scene, mut container: Value) -> Value {
    container["annotations"] = json!({"holdfast.test/hooks": "yes", "more": "told"});
    let dir = scene.dir.join("hooks");
    container["mounts"] = json!([{"container_path": dir, "host_path": dir}]);
    container
}

/// A container in the pid namespace of its pod.
pub fn shared(mut config: Value) -> Value {
    config["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    config
}

/// A pod whose containers share a pid namespace.
pub fn shared_pod(scene: &Scene) -> Value {
    shared(pod(&scene.dir, "shared"))
}

fn calls(scene: &Scene) -> Result<Vec<Value>> {
    let text = fs::read_to_string(scene.dir.join("hooks/calls"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("a call: {line}"))).collect()
}

fn stages(calls: &[Value]) -> Vec<String> {
    calls.iter().map(|call| call["stage"].as_str().unwrap_or_default().to_owned()).collect()
}

fn own(kind: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/thread-self/ns/{kind}"))?.to_string_lossy().into_owned())
}

#[test]
fn each_at_its_moment_and_in_its_namespaces() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "hooks");
    let pod_id = scene.run_pod(&pod)?;
    // One without the annotation has none.
    let id = scene.start(&pod_id, &pod, &sleeper("plain", BUSYBOX))?;
    scene.crictl.ok(&["stop", &id])?;
    ensure!(calls(&scene)?.is_empty(), "{:?}", calls(&scene)?);

    let id = scene.create(&pod_id, &pod, &hooked(&scene, sleeper("main", BUSYBOX)))?;
    ensure!(stages(&calls(&scene)?) == STAGES[..3], "{:?}", calls(&scene)?);
    scene.crictl.ok(&["start", &id])?;
    ensure!(stages(&calls(&scene)?) == STAGES[..5], "{:?}", calls(&scene)?);
    let init = scene.crictl.json(&["inspect", &id])?["info"]["pid"].as_i64().context("a pid")?;
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "echo", "hello"])? == "hello");
    let of_init = |kind: &str| -> Result<String> {
        Ok(fs::read_link(format!("/proc/{init}/ns/{kind}"))?.to_string_lossy().into_owned())
    };
    let (net, mnt, pid) = (of_init("net")?, of_init("mnt")?, of_init("pid")?);
    scene.crictl.ok(&["stop", &id])?;
    let calls = calls(&scene)?;
    ensure!(stages(&calls) == STAGES, "{calls:?}");

    let by_stage: BTreeMap<_, _> =
        calls.iter().map(|call| (call["stage"].as_str().unwrap_or_default(), call)).collect();
    for (stage, call) in &by_stage {
        let inside = ["createContainer", "startContainer"].contains(stage);
        let net = if inside { net.clone() } else { own("net")? };
        ensure!(call["net"] == net.as_str(), "{stage}: {call}");
        ensure!((call["pid"] == pid.as_str()) == inside, "{stage}: {call}");
        // The copy of the host's mounts that the first two have is gone when the container's namespace is made, which may
        // get its number.
        let mounts_of_host = call["mnt"] == own("mnt")?.as_str();
        ensure!(!inside || call["mnt"] == mnt.as_str(), "{stage}: {call}");
        ensure!(mounts_of_host == ["poststart", "poststop"].contains(stage), "{stage}: {call}");
        ensure!((call["image"] == "yes") == (*stage == "startContainer"), "{stage}: {call}");
        let before = ["prestart", "createRuntime", "createContainer"].contains(stage);
        ensure!((call["rootfs"] == "yes") == before, "{stage}: {call}");
        // Only in the container's namespaces its mounts are seen.
        ensure!((call["mounts"] == "yes") == (*stage == "createContainer"), "{stage}: {call}");
        let state = &call["state"];
        let status = match *stage {
            "startContainer" => "created",
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "creating",
        };
        ensure!(state["status"] == status && state["id"] == id.as_str(), "{stage}: {state}");
        ensure!(
            state["annotations"]["more"] == "told" && state["ociVersion"].is_string(),
            "{stage}: {state}"
        );
        let expected = match *stage {
            "poststop" => None,
            _ if inside => Some(1),
            _ => Some(init),
        };
        ensure!(state["pid"].as_i64() == expected, "{stage}: {state}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn in_a_user_namespace() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "mapped");
    with_user_namespace(&mut pod, 1_310_720);
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &hooked(&scene, sleeper("main", BUSYBOX)))?;
    ensure!(
        scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", "id -u; touch /made; echo x > /dev/shm/x"])? == "0"
    );
    scene.crictl.ok(&["stop", &id])?;
    let calls = calls(&scene)?;
    ensure!(stages(&calls) == STAGES, "{calls:?}");
    ensure!(calls[..3].iter().all(|call| call["rootfs"] == "yes"), "{calls:?}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Hooks with the host's mounts stay out of a container's pid namespace that others are in as well: they know
/// the container by its pid outside.
#[test]
fn in_a_pid_namespace_of_the_pod() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = shared_pod(&scene);
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &shared(hooked(&scene, sleeper("main", BUSYBOX))))?;
    let init = scene.crictl.json(&["inspect", &id])?["info"]["pid"].as_i64().context("a pid")?;
    let of_init = |kind: &str| -> Result<String> {
        Ok(fs::read_link(format!("/proc/{init}/ns/{kind}"))?.to_string_lossy().into_owned())
    };
    let calls = calls(&scene)?;
    ensure!(stages(&calls) == STAGES[..5], "{calls:?}");
    for call in &calls[..3] {
        ensure!(call["pid"] == own("pid")?.as_str() && call["state"]["pid"].as_i64() == Some(init), "{call}");
    }
    let inside = &calls[2];
    ensure!(
        inside["mnt"] == of_init("mnt")?.as_str() && inside["net"] == of_init("net")?.as_str(),
        "{inside}"
    );
    ensure!(calls[3]["pid"] == of_init("pid")?.as_str(), "{}", calls[3]);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// createContainer hooks see the container's mounts at `<bundle>/rootfs`, and the container what they mount and make there,
/// also where its root is read-only.
#[test]
fn what_they_mount_is_the_containers() -> Result<()> {
    const MOUNTS: &str = "cd rootfs && mkdir of-the-hook && mount -t tmpfs -o mode=755 hook of-the-hook && \
        cat volume/file proc/sys/kernel/ostype > of-the-hook/seen && echo made > by-the-hook";
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let file = json!({
        "version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-ec", MOUNTS]},
        "when": {"always": true}, "stages": ["createContainer"],
    });
    let oracle = scene.oracle()?;
    fs::write(scene.dir.join("hooks/mounts.json"), file.to_string())?;
    let volume = scene.dir.join("volume");
    fs::create_dir_all(volume.join("late"))?;
    fs::write(volume.join("file"), "of the volume\n")?;
    let on_host = HostMount::itself(&volume, "rshared")?;
    for kind in ["plain", "mapped", "shared"] {
        let mut pod = pod(&scene.dir, kind);
        if kind == "mapped" {
            with_user_namespace(&mut pod, 1_310_720);
        }
        let mut main = sleeper("main", BUSYBOX);
        main["linux"]["security_context"]["readonly_rootfs"] = true.into();
        main["mounts"] = json!([{"container_path": "/volume", "host_path": volume, "propagation": 1}]);
        if kind == "shared" {
            (pod, main) = (shared(pod), shared(main));
        }
        let pod_id = scene.run_pod(&pod)?;
        let id = scene.start(&pod_id, &pod, &main)?;
        let shell = |script: &str| scene.shell(&id, script);
        ensure!(shell("cat /of-the-hook/seen /by-the-hook")? == "of the volume\nLinux\nmade", "{kind}");
        ensure!(shell("grep -c ' /of-the-hook .* tmpfs hook ' /proc/self/mountinfo")? == "1", "{kind}");
        ensure!(shell("touch /x 2> /dev/null || echo read-only")? == "read-only", "{kind}");
        // Nothing else of where the hooks were.
        let places = shell("cut -d ' ' -f 5 /proc/1/mountinfo; ls /")?;
        ensure!(!places.contains("hf-e2e") && !places.contains("rootfs"), "{kind}: {places}");
        let late = HostMount::tmpfs(&volume.join("late"))?;
        fs::write(volume.join("late/here"), "")?;
        ensure!(shell("ls /volume/late")? == "here", "{kind}: a mount of the host is not seen");
        drop(late);
        let seen = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!seen.contains("of-the-hook"), "{kind}: the host sees a hook's mount: {seen}");
        main["tty"] = true.into();
        main["metadata"]["name"] = "terminal".into();
        main["log_path"] = "terminal.log".into();
        main["command"] = json!(["tty"]);
        let id = scene.start(&pod_id, &pod, &main)?;
        scene.exited(&id)?;
        let log = scene.crictl.ok(&["logs", &id])?.replace('\r', "");
        ensure!(log == "/dev/pts/0", "{kind}: {log}");
        scene.remove_pod(&pod_id)?;
    }
    drop(on_host);
    oracle.nothing_left()
}

/// What fails before the command fails the operation; what fails later is a warning.
#[test]
fn a_failure_is_told_where_it_belongs() -> Result<()> {
    for stage in STAGES {
        let Some(scene) = scene(stage, "none", 30)? else { return Ok(()) };
        let oracle = scene.oracle()?;
        let pod = pod(&scene.dir, "fails");
        let pod_id = scene.run_pod(&pod)?;
        let spec = hooked(&scene, sleeper("main", BUSYBOX));
        let told = |text: &str| {
            text.contains(&format!("{stage} hook"))
                && text.contains("hook.sh")
                && text.contains("exit code 3")
                && text.contains(&format!("the reason is {stage}"))
        };
        if ["prestart", "createRuntime", "createContainer"].contains(&stage) {
            let (container, sandbox) = scene.create_files(&pod, &spec)?;
            let refused = scene.crictl.refused(&["create", &pod_id, &container, &sandbox])?;
            ensure!(told(&refused.text), "{refused:?}");
        } else {
            let id = scene.create(&pod_id, &pod, &spec)?;
            if stage == "startContainer" {
                let refused = scene.crictl.refused(&["start", &id])?;
                ensure!(told(&refused.text), "{refused:?}");
                let status = scene.exited(&id)?;
                ensure!(status["exitCode"] == 128 && status["reason"] == "StartError", "{status}");
            } else {
                scene.crictl.ok(&["start", &id])?;
                scene.crictl.ok(&["stop", &id])?;
                let log = scene.agent.as_ref().context("an agent")?.log();
                wait::until_true("the warning", || Ok(told(&fs::read_to_string(&log)?)))?;
            }
        }
        ensure!(
            stages(&calls(&scene)?).last().is_some_and(|last| last == "poststop"),
            "{:?}",
            calls(&scene)?
        );
        scene.remove_pod(&pod_id)?;
        oracle.nothing_left()?;
    }
    Ok(())
}

#[test]
fn one_that_takes_too_long_is_killed() -> Result<()> {
    // The other hooks of the container, which do end, have the same limit.
    let limit = place::slowness();
    for stage in ["createRuntime", "createContainer"] {
        let Some(scene) = scene("none", stage, limit)? else { return Ok(()) };
        let oracle = scene.oracle()?;
        let pod = shared_pod(&scene);
        let pod_id = scene.run_pod(&pod)?;
        let (container, sandbox) =
            scene.create_files(&pod, &shared(hooked(&scene, sleeper("main", BUSYBOX))))?;
        let begin = Instant::now();
        let refused = scene.crictl.refused(&["create", &pod_id, &container, &sandbox])?;
        let text = &refused.text;
        ensure!(
            text.contains(stage) && text.contains(&format!("did not end within {limit} s and was killed")),
            "{refused:?}"
        );
        ensure!(begin.elapsed() < Duration::from_secs(20) * limit, "it took {:?}", begin.elapsed());
        scene.remove_pod(&pod_id)?;
        oracle.nothing_left()?;
    }
    Ok(())
}

/// The agent dies while a hook runs: nothing of the container stays.
#[test]
fn the_agent_is_killed_while_one_runs() -> Result<()> {
    for (stage, calls_by_then) in [("createRuntime", 2), ("createContainer", 3)] {
        let Some(mut scene) = scene("none", stage, 60)? else { return Ok(()) };
        let mut oracle = scene.oracle()?;
        let pod = shared_pod(&scene);
        let pod_id = scene.run_pod(&pod)?;
        let (container, sandbox) =
            scene.create_files(&pod, &shared(hooked(&scene, sleeper("main", BUSYBOX))))?;
        let crictl = scene.crictl.clone();
        let pod_of_it = pod_id.clone();
        let asking = std::thread::spawn(move || crictl.call(&["create", &pod_of_it, &container, &sandbox]));
        wait::until_true("the hook to run", || Ok(calls(&scene)?.len() == calls_by_then))?;
        scene.agent()?.crash()?;
        let asked = asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(!asked.status.success(), "an answer from a dead agent");
        ensure!(scene.crictl.ok(&["ps", "-a", "-q"])?.is_empty(), "a container that nobody was told of");
        scene.remove_pod(&pod_id)?;
        oracle.agent_is_now(scene.agent()?.pid());
        oracle.nothing_left()?;
    }
    Ok(())
}

/// What its end owes to the world outside is not lost with the shim, and each hook that fails is told.
#[test]
fn the_shim_is_killed() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    for name in ["first", "second"] {
        let script = format!("echo no {name} one >&2; exit 1");
        let file = json!({
            "version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
            "when": {"always": true}, "stages": ["poststop"],
        });
        fs::write(scene.dir.join(format!("hooks/{name}.json")), file.to_string())?;
    }
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "shimless");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &hooked(&scene, sleeper("main", BUSYBOX)))?;
    process::kill_only("holdfast-shim")?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 255 && status["reason"] == "ShimDied", "{status}");
    let calls = calls(&scene)?;
    ensure!(stages(&calls) == STAGES, "{calls:?}");
    let state = &calls[5]["state"];
    ensure!(state["status"] == "stopped" && state["id"] == id.as_str() && state["pid"].is_null(), "{state}");
    let log = fs::read_to_string(scene.agent.as_ref().context("an agent")?.log())?;
    ensure!(log.contains("no first one") && log.contains("no second one"), "{log}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The exit of a container is known before its last hooks are through: killing the shim then does not change
/// it.
#[test]
fn an_exit_outlives_the_shim() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let once = scene.dir.join("hooks/once");
    let script = format!("[ -e {0} ] && exit; touch {0}; exec sleep 600", once.display());
    let file = json!({
        "version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        "when": {"annotations": {"^holdfast\\.test/hooks$": "^yes$"}}, "stages": ["poststop"],
    });
    fs::write(scene.dir.join("hooks/a-first.json"), file.to_string())?;
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "outlived");
    let pod_id = scene.run_pod(&pod)?;
    for (name, code, reason) in [("job", 0, "Completed"), ("failed", 7, "Error")] {
        let command = format!("exit {code}");
        let spec = hooked(&scene, container(name, BUSYBOX, &["sh", "-c", &command]));
        let id = scene.start(&pod_id, &pod, &spec)?;
        wait::until_true("the hook to run", || Ok(once.exists()))?;
        let record = scene.agent.as_ref().context("an agent")?.settings.root();
        let record = fs::read_to_string(record.join(format!("containers/{id}/record.json")))?;
        let record: Value = serde_json::from_str(&record)?;
        let shim = record["shim"]["pid"].as_u64().with_context(|| format!("no shim in {record}"))?;
        process::stdout("kill", ["-9", &shim.to_string()])?;
        let status = scene.exited(&id)?;
        ensure!(status["exitCode"] == code && status["reason"] == reason, "{name}: {status}");
        // Its hooks are not owed any more.
        ensure!(stages(&calls(&scene)?).last().is_some_and(|last| last == "poststop"), "{name}");
        fs::remove_file(&once)?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A file that cannot be understood is no reason to run a container without its hooks.
#[test]
fn a_bad_file_is_named() -> Result<()> {
    let Some(scene) = scene("none", "none", 30)? else { return Ok(()) };
    let pod = pod(&scene.dir, "bad");
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let pod_id = scene.run_pod(&pod)?;
    let bad: PathBuf = scene.dir.join("hooks/bad.json");
    fs::write(&bad, "{\"version\": \"9\"")?;
    let (container, sandbox) = scene.create_files(&pod, &container("main", BUSYBOX, &["true"]))?;
    let refused = scene.crictl.refused(&["create", &pod_id, &container, &sandbox])?;
    ensure!(refused.text.contains("bad.json"), "{refused:?}");
    fs::remove_file(&bad)?;
    scene.start(&pod_id, &pod, &container_named("again"))?;
    scene.remove_pod(&pod_id)
}

fn container_named(name: &str) -> Value {
    container(name, BUSYBOX, &["true"])
}
