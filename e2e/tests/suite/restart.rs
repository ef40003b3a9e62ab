//! The agent dies and comes back: nothing is lost, and it knows what happened meanwhile.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    grpc::{self, Message},
    process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
    wait,
};
use serde_json::{Value, json};

/// A container that ends with `code` once a file appears in its volume.
fn told_by_a_file(name: &str, volume: &Path, code: u8) -> Value {
    let script = format!("while [ ! -e /told/go ]; do sleep 0.02; done; echo last words; exit {code}");
    let mut container = container(name, BUSYBOX, &["sh", "-c", &script]);
    container["mounts"] = json!([{"container_path": "/told", "host_path": volume}]);
    container
}

#[test]
fn killed_while_a_container_runs() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "runs");
    let pod_id = scene.run_pod(&pod)?;
    let container = told_by_a_file("main", &scene.dir, 5);
    let id = scene.start(&pod_id, &pod, &container)?;
    let before = scene.crictl.json(&["inspect", &id])?;
    scene.agent()?.crash()?;
    let after = scene.crictl.json(&["inspect", &id])?;
    ensure!(after["status"]["state"] == "CONTAINER_RUNNING", "{}", after["status"]);
    ensure!(after["info"]["pid"] == before["info"]["pid"], "another process");
    ensure!(after["status"]["startedAt"] == before["status"]["startedAt"], "{}", after["status"]);
    ensure!(scene.crictl.json(&["inspectp", &pod_id])?["status"]["state"] == "SANDBOX_READY");
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "echo", "hello"])? == "hello");
    fs::write(scene.dir.join("go"), "")?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 5, "{status}");
    ensure!(scene.crictl.ok(&["logs", &id])?.ends_with("last words"));
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

#[test]
fn killed_between_create_and_start() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "created");
    let pod_id = scene.run_pod(&pod)?;
    let started =
        scene.create(&pod_id, &pod, &container("started", BUSYBOX, &["sh", "-c", "echo hello; exit 4"]))?;
    let removed = scene.create(&pod_id, &pod, &container("removed", BUSYBOX, &["true"]))?;
    scene.agent()?.crash()?;
    for id in [&started, &removed] {
        ensure!(scene.crictl.container_state(id)? == "CONTAINER_CREATED", "{id}");
    }
    scene.crictl.ok(&["start", &started])?;
    ensure!(scene.exited(&started)?["exitCode"] == 4);
    ensure!(scene.crictl.ok(&["logs", &started])? == "hello");
    scene.crictl.ok(&["rm", &removed])?;
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// The container ends while there is no agent at all.
#[test]
fn an_exit_that_nobody_saw() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "unseen");
    let pod_id = scene.run_pod(&pod)?;
    let container = told_by_a_file("main", &scene.dir, 9);
    let id = scene.start(&pod_id, &pod, &container)?;
    let pid = scene.crictl.json(&["inspect", &id])?["info"]["pid"].as_u64().context("no pid")?;
    scene.agent()?.kill9()?;
    fs::write(scene.dir.join("go"), "")?;
    wait::until_true("the container's end", || {
        Ok(process::stat(pid as u32).is_none_or(|stat| stat.state == 'Z'))
    })?;
    scene.agent()?.start_again()?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 9 && status["reason"] == "Error", "{status}");
    ensure!(scene.crictl.ok(&["logs", &id])?.ends_with("last words"));
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// The kill and the exit race each other, several times over.
#[test]
fn killed_while_a_container_exits() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "race");
    let pod_id = scene.run_pod(&pod)?;
    for round in 0..6u8 {
        let code = 20 + round;
        let id = scene.create(&pod_id, &pod, &told_by_a_file(&format!("round-{round}"), &scene.dir, code))?;
        scene.crictl.ok(&["start", &id])?;
        fs::write(scene.dir.join("go"), "")?;
        scene.agent()?.crash()?;
        let status = scene.exited(&id)?;
        ensure!(status["exitCode"] == code, "round {round}: {status}");
        ensure!(scene.crictl.ok(&["logs", &id])? == "last words", "round {round}");
        fs::remove_file(scene.dir.join("go"))?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// SIGTERM ends the agent with 0; containers go on, and a stop in the middle of nothing is no different from a kill.
#[test]
fn a_clean_stop_keeps_containers() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "stays");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let status = scene.agent()?.stop()?;
    ensure!(status.success(), "{status}");
    scene.agent()?.start_again()?;
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// The address of a pod that runs is not given to another after a restart.
#[test]
fn addresses_survive() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let first = scene.run_pod(&pod(&scene.dir, "first"))?;
    scene.agent()?.crash()?;
    let second = scene.run_pod(&pod(&scene.dir, "second"))?;
    let address = |id: &str| -> Result<String> {
        Ok(scene.crictl.json(&["inspectp", id])?["status"]["network"]["ip"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    ensure!(address(&first)? != address(&second)?, "both have {}", address(&first)?);
    scene.remove_pod(&first)?;
    scene.remove_pod(&second)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// After a reboot every file is still there and no process is: records say so, and the node is Ready.
#[test]
fn another_boot() -> Result<()> {
    let boot_id = tempfile::NamedTempFile::new()?;
    fs::write(boot_id.path(), "11111111-1111-1111-1111-111111111111\n")?;
    let path = boot_id.path().to_string_lossy().into_owned();
    let with_boot_id = |settings: &mut holdfast_e2e::agent::Settings| {
        settings.environment.push(("HOLDFAST_TEST_BOOT_ID_FILE".to_owned(), path));
    };
    let Some(mut scene) = Scene::ours_with(with_boot_id)? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "rebooted");
    let pod_id = scene.run_pod(&pod)?;
    let running = scene.start(&pod_id, &pod, &sleeper("running", BUSYBOX))?;
    let created = scene.create(&pod_id, &pod, &sleeper("created", BUSYBOX))?;
    let exited = scene.start(&pod_id, &pod, &container("exited", BUSYBOX, &["sh", "-c", "exit 6"]))?;
    scene.exited(&exited)?;

    scene.agent()?.kill9()?;
    process::end_descendants()?;
    fs::write(boot_id.path(), "22222222-2222-2222-2222-222222222222\n")?;
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());

    ensure!(scene.crictl.json(&["inspectp", &pod_id])?["status"]["state"] == "SANDBOX_NOTREADY");
    let status = &scene.crictl.json(&["inspect", &running])?["status"];
    ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 255, "{status}");
    ensure!(scene.crictl.container_state(&created)? == "CONTAINER_EXITED");
    let status = &scene.crictl.json(&["inspect", &exited])?["status"];
    ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 6, "{status}");
    let conditions = &scene.crictl.json(&["info"])?["status"]["conditions"];
    let ready =
        conditions.as_array().context("no conditions")?.iter().all(|condition| condition["status"] == true);
    ensure!(ready, "{conditions}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A shim that dies while its container is being removed does not keep it from going.
#[test]
fn a_shim_that_dies_in_a_removal() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "removal");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let path = scene.agent.as_ref().context("an agent")?.settings.root();
    let path = path.join(format!("containers/{id}/record.json"));
    let record = || -> Result<Value> { Ok(serde_json::from_str(&fs::read_to_string(&path)?)?) };
    let shim = record()?["shim"]["pid"].as_u64().context("no shim")?.to_string();
    process::stdout("kill", ["-STOP", &shim])?;
    // Not by crictl, which stops it first.
    let (socket, request) = (scene.socket()?, Message::default().text(1, &id));
    let removal = std::thread::spawn(move || {
        grpc::call(&socket, "/runtime.v1.RuntimeService/RemoveContainer", &request)
    });
    wait::until_true("the removal to begin", || Ok(record()?["removing"] == true))?;
    process::stdout("kill", ["-9", &shim])?;
    removal.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(!path.exists());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A shim or a holder that dies is noticed and has a defined reason.
#[test]
fn a_helper_that_dies() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "helpers");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    process::kill_only("holdfast-shim")?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 255 && status["reason"] == "ShimDied", "{status}");
    process::kill_only("holdfast-pod")?;
    wait::until_true("the pod to be NOTREADY", || {
        Ok(scene.crictl.json(&["inspectp", &pod_id])?["status"]["state"] == "SANDBOX_NOTREADY")
    })?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
