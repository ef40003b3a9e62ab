//! Text, output, files and sockets that want more than they are for.

use std::{
    fs::{self, File},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, place,
    scene::BUSYBOX,
    specs::{self, NODE, container, pod, sleeper},
    wait,
};
use serde_json::{Value, json};

/// Whatever stands in labels, annotations and values of variables, the spec is that of a container without it
/// (CRI-O CVE-2022-0811 and CVE-2022-4318).
#[test]
fn text_is_never_control_input() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let plain = pod(&scene.dir, "plain");
    let mut hostile = plain.clone();
    hostile["metadata"]["attempt"] = 1.into();
    let texts =
        ["+x", "a=b", "a\nb", "a\0b", "run.oci.hooks", "io.kubernetes.cri-o.Devices", "${PATH}", "\u{202e}"];
    let map: Value =
        texts.iter().map(|text| ((*text).to_owned(), json!(text))).collect::<serde_json::Map<_, _>>().into();
    (hostile["labels"], hostile["annotations"]) = (map.clone(), map.clone());
    let mut specs = Vec::new();
    for pod in [plain, hostile] {
        let pod_id = scene.run_pod(&pod)?;
        let mut container = sleeper("main", BUSYBOX);
        container["envs"] = json!([{"key": "TEXT", "value": "a\nPATH=/evil"}]);
        if pod["metadata"]["attempt"] == 1 {
            (container["labels"], container["annotations"]) = (map.clone(), map.clone());
        }
        let id = scene.start(&pod_id, &pod, &container)?;
        let mut spec = scene.crictl.json(&["inspect", &id])?["info"]["runtimeSpec"].take();
        // Sets, in no order.
        for list in spec["process"]["capabilities"].as_object_mut().context("capabilities")?.values_mut() {
            list.as_array_mut().context("a set")?.sort_by_key(Value::to_string);
        }
        specs.push(spec.to_string().replace(&id, "ID").replace(&pod_id, "POD"));
        ensure!(scene.shell(&id, "echo \"$TEXT\"; echo $PATH | grep -c evil; true")? == "a\nPATH=/evil\n0");
        scene.remove_pod(&pod_id)?;
    }
    ensure!(specs[0] == specs[1], "the specs differ:\n{}\n{}", specs[0], specs[1]);
    oracle.nothing_left()
}

/// What cannot be said in an environment, a command or a file of the pod's is refused by the field's name.
#[test]
fn control_characters_are_refused_where_they_would_count() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "control");
    let pod_id = scene.run_pod(&pod)?;
    for (word, change) in [
        ("envs[0]", json!({"envs": [{"key": "A", "value": "a\0b"}]})),
        ("envs[0]", json!({"envs": [{"key": "A=B", "value": "x"}]})),
        ("envs[0]", json!({"envs": [{"key": "A\nB", "value": "x"}]})),
        ("command[1]", json!({"command": ["true", "a\0b"]})),
        ("working_dir", json!({"working_dir": "/a\0b"})),
        ("mounts[0]", json!({"mounts": [{"container_path": "/a\nb", "host_path": "/tmp"}]})),
        ("mounts[0]", json!({"mounts": [{"container_path": "/a", "host_path": "/tmp\0x"}]})),
        ("log_path", json!({"log_path": "../../escaped.log"})),
        ("log_path", json!({"log_path": "/var/tmp/escaped.log"})),
    ] {
        let mut container = sleeper("main", BUSYBOX);
        if let (Some(into), Value::Object(from)) = (container.as_object_mut(), change.clone()) {
            into.extend(from);
        }
        let (file, pod_file) = scene.create_files(&pod, &container)?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
        ensure!(refusal.code == "InvalidArgument" && refusal.text.contains(word), "{change}: {refusal:?}");
    }
    for (word, change) in [
        ("hostname", json!({"hostname": "a\nb"})),
        ("dns_config", json!({"dns_config": {"servers": ["10.0.0.1\nsearch evil"]}})),
        ("dns_config", json!({"dns_config": {"searches": ["a\nnameserver 10.0.0.2"]}})),
        ("dns_config", json!({"dns_config": {"options": ["ndots:5\0"]}})),
        ("log_directory", json!({"log_directory": "relative"})),
    ] {
        let mut pod = specs::pod(&scene.dir, "refused");
        if let (Some(into), Value::Object(from)) = (pod.as_object_mut(), change.clone()) {
            into.extend(from);
        }
        let config = specs::write(&scene.dir, &pod)?;
        let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
        ensure!(refusal.code == "InvalidArgument" && refusal.text.contains(word), "{change}: {refusal:?}");
    }
    ensure!(!std::path::Path::new("/var/tmp/escaped.log").exists());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Commands that never stop printing: each gives back so much, and the agent keeps nothing of it.
#[test]
fn output_without_end_is_bounded() -> Result<()> {
    const AT_ONCE: u64 = 8;
    /// Most that one answer takes while it is collected, encoded and sent, in KiB: stdout is cut at 16 MiB.
    const ONE: u64 = 64 << 10;
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "endless");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let agent = scene.agent()?.pid().context("no agent")?;
    let before = memory(agent)?;
    let (over, mut most) = (AtomicBool::new(false), 0);
    thread::scope(|scope| -> Result<()> {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(memory(agent).unwrap_or(0));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        for _ in 0..4 {
            let execs: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        scene.crictl.call(&["exec", "-s", &id, "sh", "-c", "yes | head -c 20000000"])
                    })
                })
                .collect();
            for exec in execs {
                exec.join().ok().context("a thread of the test")??;
            }
        }
        over.store(true, Ordering::Relaxed);
        most = watching.join().ok().context("a thread of the test")?;
        Ok(())
    })?;
    let after = memory(agent)?;
    println!("the agent had {before} KiB, at most {most}, then {after}");
    ensure!(most < before + AT_ONCE * ONE, "{before} KiB became {most}");
    ensure!(after < before + 2 * ONE, "{before} KiB became {after} for good");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A passwd that would take all memory to read is refused, soon.
#[test]
fn a_passwd_of_a_gigabyte() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let passwd = scene.dir.join("passwd");
    File::create(&passwd)?.set_len(1 << 30)?;
    let pod = pod(&scene.dir, "passwd");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["run_as_username"] = "www-data".into();
    container["mounts"] = json!([{"container_path": "/etc/passwd", "host_path": passwd}]);
    let (file, pod_file) = scene.create_files(&pod, &container)?;
    let begin = Instant::now();
    let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
    ensure!(refusal.text.contains("/etc/passwd") && refusal.text.contains("longer"), "{refusal:?}");
    ensure!(begin.elapsed() < wait::LIMIT * place::slowness(), "refused after {:?}", begin.elapsed());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Root on the host's network finds no socket of ours without a path (CVE-2020-15257), and none by its path either;
/// a user who is given our directory may not go in.
#[test]
fn sockets_of_ours_are_out_of_reach() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "sockets");
    pod.as_object_mut().context("pod")?.remove("hostname");
    pod["linux"]["security_context"]["namespace_options"]["network"] = NODE.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut root = sleeper("root", BUSYBOX);
    root["linux"]["security_context"]["namespace_options"]["network"] = NODE.into();
    let id = scene.start(&pod_id, &pod, &root)?;
    let state = scene.agent()?.settings.state();
    let seen = scene.shell(&id, "cat /proc/net/unix")?;
    let ours = state.display().to_string();
    let paths: Vec<&str> = seen.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
    ensure!(paths.iter().any(|path| path.starts_with(&ours)), "the agent's socket is not listed:\n{seen}");
    ensure!(!paths.iter().any(|path| path.starts_with('@')), "sockets without a path:\n{seen}");
    for path in paths.iter().filter(|path| path.starts_with('/')) {
        ensure!(
            scene.shell(&id, &format!("test -e {path} && echo yes || echo no"))? == "no",
            "{path} is there"
        );
    }

    let mut user =
        container("user", BUSYBOX, &["sh", "-c", "cat /state/holdfast.sock /state/lock 2>&1; true"]);
    user["linux"]["security_context"]["namespace_options"]["network"] = NODE.into();
    user["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
    user["mounts"] = json!([{"container_path": "/state", "host_path": state}]);
    let id = scene.start(&pod_id, &pod, &user)?;
    scene.exited(&id)?;
    let log = scene.crictl.ok(&["logs", &id])?;
    ensure!(
        log.lines().all(|line| line.contains("Permission denied") || line.contains("No such file")),
        "{log}"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(state.join("holdfast.sock"))?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Resident memory without what is mapped of files, in KiB.
fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    line.trim().trim_end_matches(" kB").parse().context("RssAnon")
}
