//! What must go always goes: whatever does not answer, and whatever the disk says.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    grpc::{self, Message},
    place, process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
    wait,
};

use crate::stopped::Stopped;

/// Longest time that the end of a pod may take whose shims do not answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Shims that are stopped: the kernel ends their containers, and then the shims are killed as well.
#[test]
fn stopped_shims_keep_no_pod() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "wedged");
    let pod_id = scene.run_pod(&pod)?;
    let ids = ["one", "two", "three"].map(|name| scene.start(&pod_id, &pod, &sleeper(name, BUSYBOX)));
    let _stopped = ids.into_iter().map(|id| Stopped::shim(&scene, &id?)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let socket = scene.socket()?;
    let message = Message::default().text(1, &pod_id);
    grpc::call_within(LIMIT, &socket, "/runtime.v1.RuntimeService/StopPodSandbox", &message)?;
    grpc::call_within(LIMIT, &socket, "/runtime.v1.RuntimeService/RemovePodSandbox", &message)?;
    ensure!(begin.elapsed() < LIMIT * place::slowness(), "{:?}", begin.elapsed());
    println!("NOTE: stop and remove of a pod with three stopped shims: {:?}", begin.elapsed());
    oracle.nothing_left()
}

/// The same after a restart of the agent, which has never heard those shims; and a grace period still works then.
#[test]
fn a_shim_that_was_never_heard() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "unheard");
    let pod_id = scene.run_pod(&pod)?;
    let script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let polite = container("polite", BUSYBOX, &["sh", "-c", script]);
    let id = scene.start(&pod_id, &pod, &polite)?;
    wait::until_true("the trap", || Ok(scene.crictl.ok(&["logs", &id])?.contains("ready")))?;
    let stopped = Stopped::shim(&scene, &id)?;
    scene.agent()?.crash()?;
    oracle.agent_is_now(scene.agent()?.pid());
    let pid = scene.crictl.json(&["inspect", &id])?["info"]["pid"].as_u64().context("no pid")? as u32;
    let begin = Instant::now();
    let (socket, message) = (scene.socket()?, Message::default().text(1, &id).number(2, 5));
    grpc::call_within(LIMIT, &socket, "/runtime.v1.RuntimeService/StopContainer", &message)?;
    ensure!(begin.elapsed() < LIMIT * place::slowness(), "{:?}", begin.elapsed());
    ensure!(process::stat(pid).is_none_or(|stat| stat.state == 'Z'), "it runs");
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_EXITED");
    drop(stopped);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A stop during a start that hangs: the kill ends the start.
#[test]
fn a_stop_does_not_wait_for_a_start_that_hangs() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "hangs");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.create(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let stopped = Stopped::shim(&scene, &id)?;
    let (crictl, starting) = (scene.crictl.clone(), id.clone());
    let start = std::thread::spawn(move || crictl.ok(&["start", &starting]));
    std::thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let (socket, message) = (scene.socket()?, Message::default().text(1, &id).number(2, 1));
    grpc::call_within(LIMIT, &socket, "/runtime.v1.RuntimeService/StopContainer", &message)?;
    ensure!(begin.elapsed() < LIMIT * place::slowness(), "{:?}", begin.elapsed());
    drop(stopped);
    ensure!(start.join().map_err(|_| anyhow::anyhow!("the client panicked"))?.is_err(), "it was started");
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_EXITED");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Records that cannot be written: everything goes all the same.
#[test]
fn records_that_take_no_writes() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "unwritable");
    let pod_id = scene.run_pod(&pod)?;
    let [stopped, removed, left] = ["stopped", "removed", "left"];
    let start = |name: &str| scene.start(&pod_id, &pod, &sleeper(name, BUSYBOX));
    let (stopped, removed, left) = (start(stopped)?, start(removed)?, start(left)?);
    let root = scene.agent.as_ref().context("an agent")?.settings.root();
    // No file can be made where a directory is.
    let containers = [&stopped, &removed, &left].map(|id| root.join("containers").join(id));
    for dir in containers.iter().chain([&root.join("pods").join(&pod_id)]) {
        std::fs::create_dir(dir.join("record.json.new"))?;
    }
    scene.crictl.ok(&["stop", "--timeout", "0", &stopped])?;
    ensure!(scene.crictl.container_state(&stopped)? == "CONTAINER_EXITED");
    scene.crictl.ok(&["rm", "-f", &removed])?;
    ensure!(!containers[1].exists());
    scene.crictl.ok(&["stopp", &pod_id])?;
    ensure!(scene.crictl.container_state(&left)? == "CONTAINER_EXITED");
    ensure!(scene.crictl.json(&["inspectp", &pod_id])?["status"]["state"] == "SANDBOX_NOTREADY");
    scene.crictl.ok(&["rmp", &pod_id])?;
    oracle.nothing_left()
}

/// A removal that fails is tried again by the agent itself, also after a restart.
#[test]
fn a_removal_that_fails_is_finished_later() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "later");
    let pod_id = scene.run_pod(&pod)?;
    let root = scene.agent()?.settings.root();
    let mut ids = Vec::new();
    for name in ["now", "restart"] {
        let id = scene.start(&pod_id, &pod, &sleeper(name, BUSYBOX))?;
        let pinned = root.join("containers").join(&id).join("pinned");
        std::fs::create_dir(&pinned)?;
        // A mount point cannot be removed.
        process::stdout("mount", ["-t", "tmpfs", "pinned", &pinned.to_string_lossy()])?;
        let refused = scene.crictl.refused(&["rm", "-f", &id])?;
        ensure!(refused.text.contains("busy"), "{refused:?}");
        ids.push((id, pinned));
    }
    let free = |pinned: &std::path::Path| process::stdout("umount", [pinned]).map(drop);
    let gone = |scene: &Scene, id: &str| {
        wait::until("the removal", Duration::from_secs(30), || {
            Ok((!scene.crictl.ok(&["ps", "-aq", "--no-trunc"])?.contains(id)).then_some(()))
        })
    };
    free(&ids[0].1)?;
    gone(&scene, &ids[0].0)?;
    scene.agent()?.crash()?;
    oracle.agent_is_now(scene.agent()?.pid());
    free(&ids[1].1)?;
    gone(&scene, &ids[1].0)?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Requests that are asked for many times at once have one answer.
#[test]
fn parallel_twins_get_one_object() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "twins");
    let pod_file = holdfast_e2e::specs::write(&scene.dir, &pod)?.to_string_lossy().into_owned();
    let pod_id = one_answer(&scene, &["runp", &pod_file])?;
    for round in 0..40 {
        let (container, pod) = scene.create_files(&pod, &sleeper(&format!("c{round}"), BUSYBOX))?;
        let id = one_answer(&scene, &["create", &pod_id, &container, &pod])?;
        if round == 0 {
            one_answer(&scene, &["start", &id])?;
        }
        scene.crictl.ok(&["rm", "-f", &id])?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The answer that eight clients get at once, while others list.
fn one_answer(scene: &Scene, args: &[&str]) -> Result<String> {
    let answers: Vec<Result<String>> = std::thread::scope(|scope| {
        let listing = scope.spawn(|| (0..3).try_for_each(|_| scene.crictl.ok(&["ps", "-a"]).map(drop)));
        let asking: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| scene.crictl.ok(&[&["--timeout", "60s"], args].concat())))
            .collect();
        let answers = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
        listing.join().unwrap().unwrap();
        answers
    });
    let answers = answers.into_iter().collect::<Result<Vec<_>>>().with_context(|| format!("{args:?}"))?;
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    Ok(answers[0].clone())
}
