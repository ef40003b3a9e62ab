//! The agent comes back to records that cannot be used, shims that do not answer and names that are taken: what lives goes
//! on, and what has to go goes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, place, process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
    wait,
};
use serde_json::Value;

use crate::stopped::Stopped;

/// A pod with a container that sleeps.
pub struct Sleeper {
    pod: Value,
    pub pod_id: String,
    pub id: String,
    pub pid: u64,
}

impl Sleeper {
    pub fn start(scene: &Scene, name: &str) -> Result<Self> {
        let pod = pod(&scene.dir, name);
        let pod_id = scene.run_pod(&pod)?;
        let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
        let pid = pid_of(scene, &id)?;
        Ok(Self { pod, pod_id, id, pid })
    }

    /// It runs, and it is the process that it was.
    pub fn is_the_same(&self, scene: &Scene) -> Result<()> {
        ensure!(
            scene.crictl.container_state(&self.id)? == "CONTAINER_RUNNING",
            "{}",
            scene.status(&self.id)?
        );
        ensure!(pid_of(scene, &self.id)? == self.pid, "another process");
        lives(self.pid)
    }
}

fn pid_of(scene: &Scene, id: &str) -> Result<u64> {
    scene.crictl.json(&["inspect", id])?["info"]["pid"].as_u64().context("no pid")
}

pub fn lives(pid: u64) -> Result<()> {
    ensure!(Path::new(&format!("/proc/{pid}/root/bin")).exists(), "process {pid} is dead");
    Ok(())
}

pub fn directory(scene: &Scene, kind: &str, id: &str) -> Result<PathBuf> {
    Ok(scene.agent.as_ref().context("an agent")?.settings.root().join(kind).join(id))
}

pub fn quarantine(scene: &Scene, args: &[&str]) -> Result<String> {
    let agent = scene.agent.as_ref().context("an agent")?;
    let output = process::run(&mut agent.command(&[&["quarantine"], args].concat()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}", text(&output.stderr));
    Ok(text(&output.stdout))
}

pub fn ids_of(scene: &Scene) -> Result<Vec<String>> {
    Ok(scene.crictl.ok(&["ps", "-a", "-q", "--no-trunc"])?.lines().map(str::to_owned).collect())
}

/// A shim that does not answer for longer than anybody waits, over a restart: its container is as it was.
#[test]
fn a_stopped_shim_loses_no_container() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let silent = Sleeper::start(&scene, "silent")?;
    let other = Sleeper::start(&scene, "other")?;
    let stopped = Stopped::shim(&scene, &silent.id)?;
    let begin = Instant::now();
    scene.agent()?.crash()?;
    oracle.agent_is_now(scene.agent()?.pid());
    ensure!(
        begin.elapsed() < Duration::from_secs(5) * place::slowness(),
        "the start waited {:?}",
        begin.elapsed()
    );
    silent.is_the_same(&scene)?;
    ensure!(scene.crictl.ok(&["exec", "-s", &other.id, "echo", "hello"])? == "hello");
    // Longer than any wait for an answer before: the agent says by then that it is silent.
    let log = scene.agent()?.log();
    wait::until("the agent to say so", Duration::from_secs(20), || {
        Ok(fs::read_to_string(&log)?.contains("lives but cannot be asked").then_some(()))
    })?;
    silent.is_the_same(&scene)?;
    let refused = scene.crictl.refused(&["exec", "-s", &silent.id, "true"])?;
    ensure!(refused.code == "Unavailable" && refused.text.contains("does not answer"), "{refused:?}");
    stopped.go_on()?;
    wait::until_true("the shim to answer", || {
        Ok(scene.crictl.ok(&["exec", "-s", &silent.id, "echo", "back"]).is_ok_and(|said| said == "back"))
    })?;
    silent.is_the_same(&scene)?;
    scene.remove_pod(&silent.pod_id)?;
    scene.remove_pod(&other.pod_id)?;
    oracle.nothing_left()
}

/// Copies of a running container's directory: the one that a failed creation could have left, and the one that nothing but
/// a copy makes.
#[test]
fn a_ghost_ends_no_container() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let kept = Sleeper::start(&scene, "kept")?;
    let dir = directory(&scene, "containers", &kept.id)?;
    for round in 0..8_u8 {
        scene.agent()?.kill9()?;
        // Ids on both sides of the real one, for whoever reads in their order.
        let ghost = format!("{}{:02x}", if round % 2 == 0 { "0" } else { "f" }.repeat(62), round);
        let place = dir.with_file_name(&ghost);
        fs::create_dir(&place)?;
        let record = fs::read_to_string(dir.join("record.json"))?;
        let record = match round % 4 {
            // As it was copied.
            0 => record,
            _ => record.replace(&kept.id, &ghost).replace("\"phase\":\"running\"", "\"phase\":\"creating\""),
        };
        fs::write(place.join("record.json"), record)?;
        scene.agent()?.start_again()?;
        kept.is_the_same(&scene)?;
        if round % 4 == 0 {
            ensure!(place.with_extension("unreadable").exists(), "the copy is not set aside");
            quarantine(&scene, &["remove", &ghost])?;
        }
        wait::until_true("the ghost to go", || Ok(!place.exists()))?;
        ensure!(ids_of(&scene)? == std::slice::from_ref(&kept.id), "round {round}: {:?}", ids_of(&scene)?);
        kept.is_the_same(&scene)?;
    }
    ensure!(scene.crictl.ok(&["exec", "-s", &kept.id, "echo", "hello"])? == "hello");
    oracle.agent_is_now(scene.agent()?.pid());
    scene.remove_pod(&kept.pod_id)?;
    oracle.nothing_left()
}

/// Two containers of one name, as no agent makes them: both are there, and both can be removed.
#[test]
fn a_taken_name_hides_nothing() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let kept = Sleeper::start(&scene, "twins")?;
    let exited = scene.start(&kept.pod_id, &kept.pod, &container("exited", BUSYBOX, &["true"]))?;
    scene.exited(&exited)?;
    scene.agent()?.kill9()?;
    let record = directory(&scene, "containers", &exited)?.join("record.json");
    let text = fs::read_to_string(&record)?;
    fs::write(&record, text.replace("\"name\":\"exited\"", "\"name\":\"main\""))?;
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    kept.is_the_same(&scene)?;
    ensure!(scene.crictl.container_state(&exited)? == "CONTAINER_EXITED");
    scene.crictl.ok(&["rm", &exited])?;
    kept.is_the_same(&scene)?;
    scene.remove_pod(&kept.pod_id)?;
    oracle.nothing_left()
}

/// A record of a newer version, and one that makes no sense: what they name runs on, keeps its network, and is shown and
/// removed by the command that is there for it.
#[test]
fn unusable_records_end_nothing() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let torn = Sleeper::start(&scene, "torn")?;
    let newer = Sleeper::start(&scene, "newer")?;
    let kept = Sleeper::start(&scene, "kept")?;
    let second = scene.start(&kept.pod_id, &kept.pod, &sleeper("second", BUSYBOX))?;
    let second_pid = pid_of(&scene, &second)?;
    scene.agent()?.kill9()?;
    let cut = |path: &Path| -> Result<()> {
        let bytes = fs::read(path)?;
        Ok(fs::write(path, &bytes[..bytes.len() / 2])?)
    };
    let record =
        |kind: &str, id: &str| Ok::<_, anyhow::Error>(directory(&scene, kind, id)?.join("record.json"));
    let newer_records = [record("pods", &newer.pod_id)?, record("containers", &newer.id)?];
    let torn_records = [record("pods", &torn.pod_id)?, record("containers", &torn.id)?];
    let half = record("containers", &second)?;
    torn_records.iter().try_for_each(|path| cut(path))?;
    cut(&half)?;
    let bump = |from: u64, to: u64| {
        newer_records.iter().try_for_each(|path| -> Result<()> {
            let text = fs::read_to_string(path)?;
            Ok(fs::write(
                path,
                text.replacen(&format!("\"version\":{from}"), &format!("\"version\":{to}"), 1),
            )?)
        })
    };
    bump(1, 7)?;
    for _ in 0..3 {
        scene.agent()?.crash()?;
    }
    oracle.agent_is_now(scene.agent()?.pid());
    ensure!(ids_of(&scene)? == std::slice::from_ref(&kept.id), "{:?}", ids_of(&scene)?);
    for pid in [torn.pid, newer.pid, second_pid, kept.pid] {
        lives(pid)?;
    }
    let list: Value = serde_json::from_str(&quarantine(&scene, &["list", "-o", "json"])?)?;
    let listed = |id: &str| list.as_array().and_then(|list| list.iter().find(|item| item["id"] == id));
    for (id, kind, reason) in [
        (&torn.pod_id, "pod", "unreadable"),
        (&torn.id, "container", "unreadable"),
        (&second, "container", "unreadable"),
        (&newer.pod_id, "pod", "version 7"),
        (&newer.id, "container", "version 7"),
    ] {
        let item = listed(id).with_context(|| format!("{id} is not in {list}"))?;
        let text = item["reason"].as_str().unwrap_or_default();
        ensure!(item["kind"] == kind && text.contains(reason), "{item}");
        ensure!(
            item["bytes"].as_u64() > Some(0) && !item["pids"].as_array().context("no pids")?.is_empty(),
            "{item}"
        );
    }
    let table = quarantine(&scene, &["list"])?;
    ensure!(table.lines().count() == 6, "{table}");

    // A pod that is known can be stopped and removed, whatever is in it.
    scene.remove_pod(&kept.pod_id)?;
    ensure!(lives(second_pid).is_err(), "a container outlived its pod");
    ensure!(quarantine(&scene, &["remove", &torn.id]).is_err(), "one that lives was removed without --force");
    lives(torn.pid)?;
    quarantine(&scene, &["remove", "--force", &torn.id, &torn.pod_id, &second])?;
    ensure!(lives(torn.pid).is_err(), "it lives on");

    // The program that can read the newer ones finds them as they were.
    scene.agent()?.kill9()?;
    bump(7, 1)?;
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    newer.is_the_same(&scene)?;
    ensure!(scene.crictl.ok(&["exec", "-s", &newer.id, "echo", "hello"])? == "hello");
    ensure!(quarantine(&scene, &["list"])?.lines().count() <= 1);
    scene.remove_pod(&newer.pod_id)?;
    oracle.nothing_left()
}

/// What was set aside stays so, even if it can be read; what a start finds without a record, or with an empty one of
/// which nothing lives, is nobody's.
#[test]
fn directories_of_nobody_go_and_what_is_set_aside_stays() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let kept = Sleeper::start(&scene, "kept")?;
    let exited = scene.start(&kept.pod_id, &kept.pod, &container("exited", BUSYBOX, &["true"]))?;
    scene.exited(&exited)?;
    scene.agent()?.kill9()?;
    let aside = directory(&scene, "containers", &format!("{exited}.unreadable"))?;
    fs::rename(directory(&scene, "containers", &exited)?, &aside)?;
    let strays = [("containers", "1"), ("pods", "2"), ("containers", "3")];
    for (kind, digit) in strays {
        let dir = directory(&scene, kind, &digit.repeat(64))?;
        fs::create_dir_all(dir.join("upper/deep"))?;
        if digit == "3" {
            fs::write(dir.join("record.json"), "")?;
        }
    }
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    ensure!(ids_of(&scene)? == std::slice::from_ref(&kept.id));
    for (kind, digit) in strays {
        let dir = directory(&scene, kind, &digit.repeat(64))?;
        wait::until_true("a directory of nobody's to go", || Ok(!dir.exists()))?;
    }
    ensure!(aside.join("record.json").exists());
    let again = scene.create(&kept.pod_id, &kept.pod, &container("exited", BUSYBOX, &["true"]))?;
    scene.crictl.ok(&["rm", &again])?;
    scene.remove_pod(&kept.pod_id)?;
    quarantine(&scene, &["remove", &exited])?;
    oracle.nothing_left()
}

/// An agent that dies within StartContainer: the container runs, and the next agent knows.
#[test]
fn killed_within_a_start() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "start");
    let pod_id = scene.run_pod(&pod)?;
    for round in 0..4 {
        let id = scene.create(&pod_id, &pod, &sleeper(&format!("round-{round}"), BUSYBOX))?;
        let shim = Stopped::shim(&scene, &id)?;
        let (crictl, starting) = (scene.crictl.clone(), id.clone());
        let start = std::thread::spawn(move || crictl.ok(&["start", &starting]));
        // The order is in the shim's socket, or not; either is right.
        std::thread::sleep(Duration::from_millis(100 * round));
        scene.agent()?.kill9()?;
        shim.go_on()?;
        let _ = start.join();
        scene.agent()?.start_again()?;
        let state = || scene.crictl.container_state(&id);
        // Asked again, as by a client that got no answer.
        scene.crictl.ok(&["start", &id])?;
        ensure!(state()? == "CONTAINER_RUNNING", "round {round}: {}", state()?);
        scene.crictl.ok(&["start", &id])?;
        scene.crictl.ok(&["stop", "--timeout", "0", &id])?;
        ensure!(scene.crictl.refused(&["start", &id])?.code == "FailedPrecondition");
    }
    oracle.agent_is_now(scene.agent()?.pid());
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Records in the way of the start itself: a failed read is no reason to forget what is there.
#[test]
fn a_record_that_cannot_be_read_now_fails_the_start() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let kept = Sleeper::start(&scene, "kept")?;
    scene.agent()?.kill9()?;
    let record = directory(&scene, "containers", &kept.id)?.join("record.json");
    let away = record.with_extension("away");
    fs::rename(&record, &away)?;
    // ELOOP: an error that is about the reading, not about what was read.
    std::os::unix::fs::symlink("record.json", &record)?;
    let error = scene.agent()?.start_again().err().context("it started")?;
    ensure!(format!("{error:#}").contains("Too many levels of symbolic links"), "{error:#}");
    lives(kept.pid)?;
    fs::remove_file(&record)?;
    fs::rename(&away, &record)?;
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    kept.is_the_same(&scene)?;
    scene.remove_pod(&kept.pod_id)?;
    oracle.nothing_left()
}

/// With the boot everything ended, and the lists say so from the first answer on.
#[test]
fn after_a_reboot_no_list_shows_a_running_container() -> Result<()> {
    let boot_id = tempfile::NamedTempFile::new()?;
    fs::write(boot_id.path(), "11111111-1111-1111-1111-111111111111\n")?;
    let path = boot_id.path().to_string_lossy().into_owned();
    let settings = |settings: &mut holdfast_e2e::agent::Settings| {
        settings.environment.push(("HOLDFAST_TEST_BOOT_ID_FILE".to_owned(), path));
    };
    let Some(mut scene) = Scene::ours_with(settings)? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pods =
        (0..4).map(|number| Sleeper::start(&scene, &format!("p{number}"))).collect::<Result<Vec<_>>>()?;
    scene.agent()?.kill9()?;
    holdfast_e2e::process::end_descendants()?;
    fs::write(boot_id.path(), "22222222-2222-2222-2222-222222222222\n")?;
    scene.agent()?.start_again()?;
    oracle.agent_is_now(scene.agent()?.pid());
    let running = scene.crictl.ok(&["ps", "-q", "--state", "Running"])?;
    ensure!(running.is_empty(), "{running}");
    let ready = scene.crictl.ok(&["pods", "-q", "--state", "Ready"])?;
    ensure!(ready.is_empty(), "{ready}");
    for pod in pods {
        let status = scene.status(&pod.id)?;
        ensure!(status["exitCode"] == 255 && status["reason"] == "NodeRebooted", "{status}");
        scene.remove_pod(&pod.pod_id)?;
    }
    oracle.nothing_left()
}
