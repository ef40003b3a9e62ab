//! The whole life of a pod by the real crictl, and what each inspect says on the way.

use std::fs;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::BUSYBOX,
    specs::{self, container, pod},
    wait,
};
use serde_json::Value;

#[test]
fn the_whole_life_of_a_pod() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let crictl = &scene.crictl;

    let pod = pod(&scene.dir, "walk");
    let pod_id = scene.run_pod(&pod)?;
    ensure!(is_id(&pod_id), "{pod_id:?} is no id");
    let status = crictl.json(&["inspectp", &pod_id])?;
    check_pod(&status, &pod, &pod_id)?;

    let script = "echo to stdout; echo to stderr >&2; trap 'echo bye; exit 7' TERM; while :; do sleep 1000 & wait; done";
    let container = container("main", BUSYBOX, &["sh", "-c", script]);
    let id = scene.create(&pod_id, &pod, &container)?;
    ensure!(is_id(&id), "{id:?} is no id");
    ensure!(crictl.container_state(&id)? == "CONTAINER_CREATED");
    crictl.ok(&["start", &id])?;
    ensure!(scene.log(&pod, &container).exists(), "no log file when StartContainer returned");
    check_running(&crictl.json(&["inspect", &id])?, &id)?;

    ensure!(crictl.ok(&["exec", "-s", &id, "echo", "from exec"])? == "from exec");
    let failing = crictl.call(&["exec", "-s", &id, "sh", "-c", "exit 3"])?;
    ensure!(!failing.status.success(), "exec of exit 3 succeeded");
    wait::until_true("both lines in the log", || Ok(crictl.ok(&["logs", &id])?.lines().count() >= 1))?;
    check_log(&fs::read_to_string(scene.log(&pod, &container))?)?;

    let stats = crictl.json(&["stats", "-o", "json", &id])?;
    let stats = &stats["stats"][0];
    ensure!(stats["attributes"]["id"] == id.as_str(), "stats of another container: {stats}");
    ensure!(number(&stats["memory"]["workingSetBytes"]) > 0, "no memory in use: {stats}");
    ensure!(number(&stats["cpu"]["usageCoreNanoSeconds"]) > 0, "no CPU time: {stats}");
    crictl.ok(&["update", "--memory", "67108864", &id])?;

    let listed = crictl.json(&["ps", "-o", "json", "--pod", &pod_id])?;
    ensure!(listed["containers"].as_array().is_some_and(|all| all.len() == 1), "{listed}");
    crictl.ok(&["stop", "--timeout", "10", &id])?;
    let status = crictl.json(&["inspect", &id])?;
    ensure!(status["status"]["state"] == "CONTAINER_EXITED", "{}", status["status"]);
    ensure!(
        status["status"]["exitCode"] == 7 && status["status"]["reason"] == "Error",
        "{}",
        status["status"]
    );
    ensure!(crictl.ok(&["logs", &id])?.lines().last() == Some("bye"), "the last line is not in the log");
    crictl.ok(&["stop", &id]).context("a second stop")?;
    crictl.ok(&["rm", &id])?;
    ensure!(crictl.refused(&["inspect", &id])?.code == "NotFound");

    crictl.ok(&["stopp", &pod_id])?;
    let status = crictl.json(&["inspectp", &pod_id])?;
    ensure!(status["status"]["state"] == "SANDBOX_NOTREADY", "{}", status["status"]);
    crictl.ok(&["stopp", &pod_id]).context("a second stopp")?;
    crictl.ok(&["rmp", &pod_id])?;
    ensure!(crictl.refused(&["inspectp", &pod_id])?.code == "NotFound");
    oracle.nothing_left()
}

/// A command that ends by itself: states, exit codes and reasons as the kubelet reads them.
#[test]
fn exits_have_codes_and_reasons() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "exits");
    let pod_id = scene.run_pod(&pod)?;
    for (name, script, code, reason) in [("zero", "exit 0", 0, "Completed"), ("three", "exit 3", 3, "Error")]
    {
        let id = scene.start(&pod_id, &pod, &container(name, BUSYBOX, &["sh", "-c", script]))?;
        let status = scene.exited(&id)?;
        ensure!(status["exitCode"].as_i64().unwrap_or(0) == code, "{name}: {status}");
        ensure!(status["reason"] == reason, "{name}: {status}");
    }
    // Deaf to SIGTERM: the grace period ends with SIGKILL.
    let deaf = container("deaf", BUSYBOX, &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    let id = scene.start(&pod_id, &pod, &deaf)?;
    scene.crictl.ok(&["stop", "--timeout", "1", &id])?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 137 && status["reason"] == "Error", "{status}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Ten thousand lines, some long, arrive whole and in order.
#[test]
fn a_log_is_complete() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "logs");
    let pod_id = scene.run_pod(&pod)?;
    let script = "i=0; while [ $i -lt 10000 ]; do echo line $i; i=$((i+1)); done; \
        head -c 50000 /dev/zero | tr '\\0' x; echo; printf 'no end of line'";
    let container = container("main", BUSYBOX, &["sh", "-c", script]);
    let id = scene.start(&pod_id, &pod, &container)?;
    scene.exited(&id)?;
    let text = fs::read_to_string(scene.log(&pod, &container))?;
    let (mut whole, mut line) = (Vec::new(), String::new());
    for record in text.lines() {
        let parts: Vec<&str> = record.splitn(4, ' ').collect();
        ensure!(parts.len() == 4 && parts[1] == "stdout", "{record:?} is no log record");
        line.push_str(parts[3]);
        if parts[2] == "F" {
            whole.push(std::mem::take(&mut line));
        }
    }
    // What has no end of line is a part: a kubelet that makes a termination message of the log adds no newline to it.
    ensure!(line == "no end of line", "{line:?} after {:?}", &whole[10_000..]);
    ensure!(
        (0..10_000).all(|number| whole.get(number).is_some_and(|line| *line == format!("line {number}")))
    );
    ensure!(
        whole[10_000].len() == 50_000 && whole[10_000].bytes().all(|byte| byte == b'x'),
        "the long line is torn"
    );
    ensure!(whole.len() == 10_001, "{:?}", &whole[10_001..]);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A kubelet rotates a log: renames it, and asks for it to be reopened.
#[test]
fn a_log_is_rotated() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "rotated");
    let pod_id = scene.run_pod(&pod)?;
    let script = "echo before; while [ ! -e /told/go ]; do sleep 0.02; done; echo after";
    let mut container = container("main", BUSYBOX, &["sh", "-c", script]);
    let volume = scene.dir.join("told");
    fs::create_dir(&volume)?;
    container["mounts"] = serde_json::json!([{"container_path": "/told", "host_path": volume}]);
    let id = scene.create(&pod_id, &pod, &container)?;
    ensure!(!scene.crictl.call(&["logs", "--reopen", &id])?.status.success(), "reopened before its start");
    scene.crictl.ok(&["start", &id])?;
    let log = scene.log(&pod, &container);
    wait::until_true("the first line", || Ok(fs::read_to_string(&log)?.contains("before")))?;
    let old = log.with_extension("old");
    fs::rename(&log, &old)?;
    scene.crictl.ok(&["logs", "--reopen", &id])?;
    fs::write(volume.join("go"), "")?;
    scene.exited(&id)?;
    let (old, new) = (fs::read_to_string(&old)?, fs::read_to_string(&log)?);
    ensure!(old.contains("before") && !old.contains("after"), "{old}");
    ensure!(new.contains("after") && !new.contains("before"), "{new}");
    ensure!(!scene.crictl.call(&["logs", "--reopen", &id])?.status.success(), "reopened after its end");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Everything of a container's configuration that the walk leaves out.
#[test]
fn a_container_is_what_its_configuration_says() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "config");
    let pod_id = scene.run_pod(&pod)?;
    let volume = scene.dir.join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of the host\n")?;
    let mut container = specs::sleeper("main", BUSYBOX);
    container["working_dir"] = "/tmp".into();
    container["envs"] = serde_json::json!([{"key": "GREETING", "value": "hello = world"}]);
    container["mounts"] = serde_json::json!([
        {"container_path": "/data", "host_path": volume, "readonly": true},
        {"container_path": "/rw/deep", "host_path": volume},
    ]);
    container["linux"]["security_context"]["run_as_user"] = serde_json::json!({"value": 1000});
    container["linux"]["security_context"]["run_as_group"] = serde_json::json!({"value": 2000});
    container["linux"]["security_context"]["supplemental_groups"] = serde_json::json!([3000]);
    container["linux"]["security_context"]["no_new_privs"] = true.into();
    container["linux"]["security_context"]["readonly_rootfs"] = true.into();
    let id = scene.start(&pod_id, &pod, &container)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    ensure!(shell("pwd; echo $GREETING; cat /data/file")? == "/tmp\nhello = world\nof the host");
    ensure!(shell("id -u; id -g")? == "1000\n2000");
    let groups = shell("id -G")?;
    ensure!(groups.split(' ').any(|group| group == "3000"), "{groups}");
    ensure!(
        shell("touch /data/x 2>&1 || echo refused")?.ends_with("refused"),
        "a read-only volume was written"
    );
    ensure!(shell("touch /x 2>&1 || echo refused")?.ends_with("refused"), "a read-only root was written");
    let status = shell("cat /proc/self/status")?;
    ensure!(status.contains("NoNewPrivs:\t1") && status.contains("CapInh:\t0000000000000000"), "{status}");
    ensure!(status.contains("CapEff:\t0000000000000000"), "a user with capabilities: {status}");
    ensure!(shell("hostname")? == "config");
    let descriptors = shell("ls /proc/self/fd | tr '\\n' ' '")?;
    ensure!(descriptors.trim() == "0 1 2 3", "descriptors in a container: {descriptors}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

fn check_pod(status: &Value, pod: &Value, id: &str) -> Result<()> {
    let (sandbox, info) = (&status["status"], &status["info"]);
    ensure!(sandbox["id"] == id && sandbox["state"] == "SANDBOX_READY", "{sandbox}");
    ensure!(sandbox["metadata"]["name"] == pod["metadata"]["name"], "{sandbox}");
    ensure!(sandbox["labels"]["app"] == "walk", "{sandbox}");
    let address: Option<std::net::IpAddr> =
        sandbox["network"]["ip"].as_str().and_then(|address| address.parse().ok());
    ensure!(address.is_some(), "no address: {sandbox}");
    ensure!(number(&info["pid"]) > 1, "no pid in the verbose status: {info}");
    Ok(())
}

fn check_running(status: &Value, id: &str) -> Result<()> {
    let (container, info) = (&status["status"], &status["info"]);
    ensure!(container["id"] == id && container["state"] == "CONTAINER_RUNNING", "{container}");
    ensure!(
        container["image"]["image"].as_str().is_some_and(|image| image.contains("busybox")),
        "{container}"
    );
    ensure!(container["imageRef"].as_str().is_some_and(|image| image.contains("sha256:")), "{container}");
    ensure!(container["logPath"].as_str().is_some_and(|path| path.starts_with('/')), "{container}");
    ensure!(container["labels"]["part"] == "main", "{container}");
    ensure!(number(&info["pid"]) > 1 && info["runtimeSpec"]["process"].is_object(), "{info}");
    Ok(())
}

fn check_log(text: &str) -> Result<()> {
    for (stream, content) in [("stdout", "to stdout"), ("stderr", "to stderr")] {
        let line = text.lines().find(|line| line.ends_with(&format!(" {stream} F {content}")));
        let line = line.with_context(|| format!("{content} is not in\n{text}"))?;
        let time = line.split(' ').next().unwrap_or_default();
        ensure!(time.len() >= 20 && time.contains('T'), "{time} is no RFC 3339 time");
    }
    Ok(())
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// crictl prints 64-bit numbers as text.
fn number(value: &Value) -> u64 {
    let value = if value.is_object() { &value["value"] } else { value };
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}
