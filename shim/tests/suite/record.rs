//! The exit record: when it is there, and what a shim's end or a full disk leaves of it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_pod::protocol::{Answer, Create, ExitRecord, FaultKind, Request};
use holdfast_sys::{ns, pidfd};
use serde_json::json;

use crate::harness::{LIMIT, Shim, holder, record, request, until};
use crate::scene::Scene;

fn written(scene: &Scene) -> Option<ExitRecord> {
    serde_json::from_slice(&fs::read(scene.path("state/exit.json")).ok()?).ok()
}

#[test]
fn an_exit_is_on_disk_before_the_poststop_hooks_are_through() {
    let Some(mut scene) = Scene::sh("exit 3") else { return };
    scene.spec["hooks"] = json!({"poststop": [{"path": "/bin/sleep", "args": ["sleep", "600"]}]});
    let create = Create { hooks: true, bundle: scene.path("run"), ..request(&scene) };
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
    assert_eq!(written(&scene), None);
    shim.agent.start();
    until("the record", || written(&scene).is_some());
    let early = record(&scene);
    assert!(
        early.exit_code == 3 && early.unfinished && early.finished_at_ns > early.started_at_ns,
        "{early:?}"
    );
    // Whoever kills the shim now does not change how the container ended.
    pidfd::kill(&shim.child.pidfd).unwrap();
    assert!(pidfd::wait_exit(&shim.child.pidfd, LIMIT).unwrap());
    assert_eq!(record(&scene), early);
}

#[test]
fn the_last_record_is_a_finished_one() {
    let Some(scene) = Scene::sh("exit 4") else { return };
    let told = Shim::run(&scene);
    assert!(told.exit_code == 4 && !told.unfinished, "{told:?}");
    assert_eq!(record(&scene), told);
    assert_eq!(fs::read_dir(scene.path("state")).unwrap().count(), 1);
}

/// The state directory on a disk of the test's own, in a mount namespace of this thread.
fn on_small_disk(scene: &Scene) {
    let run = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    };
    ns::unshare(ns::NEWNS).unwrap();
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "small", scene.path("state").to_str().unwrap()]);
}

fn fill(scene: &Scene) {
    let file = File::create(scene.path("state/filler")).unwrap();
    while rustix::io::write(&file, &[0; 4096]).is_ok() {}
}

#[test]
fn a_full_disk_does_not_lose_an_exit() {
    let Some(scene) = Scene::sh("exit 5") else { return };
    on_small_disk(&scene);
    let (mut shim, _) = Shim::created(&scene);
    fill(&scene);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 5);
    shim.gone(&scene);
    let read = record(&scene);
    assert!(read.exit_code == 5 && !read.unfinished, "{read:?}");
    assert!(Command::new("umount").arg(scene.path("state")).status().unwrap().success());
}

#[test]
fn without_room_for_its_exit_there_is_no_container() {
    let Some(scene) = Scene::sh("true") else { return };
    on_small_disk(&scene);
    fill(&scene);
    let failure = Shim::refused(&scene);
    assert!(failure.stage.contains("exit record") && failure.errno == 28, "{failure:?}");
    assert!(Command::new("umount").arg(scene.path("state")).status().unwrap().success());
}

/// Nobody reads it: whoever opens it for writing waits.
#[test]
fn a_fifo_in_the_place_of_a_log_is_refused_at_once() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let fifo = || {
        rustix::fs::mkfifoat(rustix::fs::CWD, scene.log(), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    };
    fifo();
    let begun = Instant::now();
    let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
    let seq = shim.send_create(&scene, request(&scene), &[]);
    let Answer::Failed(failure) = shim.agent.answer(seq) else { panic!() };
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(failure.kind, FaultKind::Invalid);
    assert!(failure.stage.contains("/logs/0.log") && failure.text.contains("FIFO"), "{failure}");
    shim.gone(&scene);
    // It is not ours to remove.
    fs::remove_file(scene.log()).unwrap();
    assert_eq!(fs::read_dir(scene.path("state")).unwrap().count(), 0);

    let mut shim = Shim::started(&scene);
    fs::remove_file(scene.log()).unwrap();
    fifo();
    let failure = shim.agent.failure(Request::ReopenLog);
    assert!(failure.stage.contains("0.log") && failure.text.contains("FIFO"), "{failure}");
    shim.agent.ok(Request::Kill);
    assert_eq!(shim.agent.exited().exit_code, 137);
    shim.gone(&scene);
}

#[test]
fn what_a_flood_needed_is_given_back() {
    let Some(scene) = Scene::sh("read go </gate; seq 1 200000; sleep 1000") else { return };
    let gate = scene.path("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let mut scene = scene;
    scene.bind(&gate, "/gate", &[]);
    let mut shim = Shim::started(&scene);
    let memory = || -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", shim.child.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = memory();
    fs::write(&gate, "go\n").unwrap();
    let mut most = 0;
    until("the last line", || {
        most = most.max(memory());
        fs::read_to_string(scene.log()).unwrap().ends_with(" stdout F 200000\n")
    });
    assert!(most >= before + 40, "{before} KiB before and {most} in it: no flood");
    until("the memory to be given back", || memory() <= before + 16);
    shim.agent.ok(Request::Kill);
    drop(shim.agent.exited());
    shim.gone(&scene);
}

/// Descriptors run out: the queue of those who connect is looked at now and then, and not all the time.
#[test]
fn a_shim_without_descriptors_does_not_spin() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    let pid = rustix::process::Pid::from_raw(shim.child.pid);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", shim.child.pid)).unwrap().count();
    // All but ten of the crowd find no place, and its queue has room for them.
    let most = descriptors() + 10;
    let limit = rustix::process::Rlimit { current: Some(most as u64), maximum: Some(most as u64) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let run = File::open(scene.path("run")).unwrap();
    let connect =
        || holdfast_sys::socket::connect_at(run.as_fd(), holdfast_pod::protocol::SOCKET_NAME, LIMIT);
    let crowd: Vec<_> = (0..20).map(|_| connect().unwrap()).collect();
    until("the last descriptor to be taken", || descriptors() >= most);
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shim.child.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, begun) = (ticks(), Instant::now());
    // A second of it, by what it gets done: answers.
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(matches!(shim.agent.call(Request::State), Answer::State(_)));
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(ticks() - before < 50, "{} ticks in a second", ticks() - before);
    drop(crowd);
    let mut again = crate::harness::Agent::connect(&scene);
    assert!(matches!(again.call(Request::State), Answer::State(_)));
    shim.agent = again;
    shim.agent.ok(Request::Kill);
    drop(shim.agent.exited());
    shim.gone(&scene);
}
