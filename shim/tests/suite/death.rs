//! The agent dies at every point of a container's life; so does the holder, and so does the shim.

use holdfast_pod::protocol::{Answer, Phase, Request};
use holdfast_sys::pidfd;

use crate::harness::{Agent, LIMIT, Shim, holder, record, request, until};
use crate::scene::Scene;

/// As SIGKILL does: the connection closes and nothing more is said.
fn lose_agent(shim: &mut Shim) {
    let (nowhere, _) = holdfast_sys::socket::pair().unwrap();
    shim.agent.channel = nowhere;
}

fn process_is_gone(pid: i32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn before_create_the_shim_just_goes() {
    let Some(scene) = Scene::sh("true") else { return };
    let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
    lose_agent(&mut shim);
    shim.gone(&scene);
}

#[test]
fn during_create_everything_is_undone() {
    let Some(scene) = Scene::sh("true") else { return };
    for _ in 0..10 {
        let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
        shim.send_create(&scene, request(&scene), &[]);
        lose_agent(&mut shim);
        shim.gone(&scene);
        assert!(!scene.path("state/exit.json").exists());
        assert!(!scene.log().exists());
    }
}

#[test]
fn between_created_and_commit_everything_is_undone() {
    let Some(scene) = Scene::sh("true") else { return };
    let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
    let created = shim.create(&scene, request(&scene), &[]);
    lose_agent(&mut shim);
    shim.gone(&scene);
    until("init to go", || process_is_gone(created.pid));
    assert!(!scene.path("state/exit.json").exists());
}

#[test]
fn after_commit_a_new_agent_starts_it() {
    let Some(scene) = Scene::sh("echo hi; exit 9") else { return };
    let (mut shim, created) = Shim::created(&scene);
    lose_agent(&mut shim);
    shim.agent = Agent::connect(&scene);
    let Answer::State(state) = shim.agent.call(Request::State) else { panic!() };
    assert_eq!((state.phase, &state.created), (Phase::Created, &created));
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 9);
    shim.gone(&scene);
    assert_eq!(scene.lines(), ["stdout F hi"]);
}

#[test]
fn while_it_runs_nothing_is_lost() {
    let script = "trap 'echo last; exit 3' TERM; echo first; while true; do sleep 0.01; done";
    let Some(scene) = Scene::sh(script) else { return };
    let mut shim = Shim::started(&scene);
    lose_agent(&mut shim);
    shim.agent = Agent::connect(&scene);
    let Answer::State(state) = shim.agent.call(Request::State) else { panic!() };
    assert!(state.phase == Phase::Running && state.started_at_ns > 0);
    until("output", || !scene.lines().is_empty());
    shim.agent.ok(Request::ReopenLog);
    shim.agent.ok(Request::Signal { signal: 15 });
    // The newest connection gets the news.
    assert_eq!(shim.agent.exited().exit_code, 3);
    shim.gone(&scene);
    assert_eq!(scene.lines(), ["stdout F first", "stdout F last"]);
}

#[test]
fn without_an_agent_the_record_tells() {
    let Some(scene) = Scene::sh("cat /gate >/dev/null; echo bye; exit 6") else { return };
    let gate = scene.path("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let mut scene = scene;
    scene.bind(&gate, "/gate", &[]);
    let mut shim = Shim::started(&scene);
    lose_agent(&mut shim);
    std::fs::write(&gate, "go").unwrap();
    shim.gone(&scene);
    assert_eq!(record(&scene).exit_code, 6);
    assert_eq!(scene.lines(), ["stdout F bye"]);
}

#[test]
fn accidental_signals_do_not_end_the_shim() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    for signal in [1, 2, 3, 10, 12, 13, 14, 15] {
        holdfast_sys::pidfd::signal(&shim.child.pidfd, signal).unwrap();
    }
    let Answer::State(state) = shim.agent.call(Request::State) else { panic!() };
    assert_eq!(state.phase, Phase::Running);
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}

#[test]
fn a_shim_that_is_killed_leaves_nothing_at_the_gate() {
    let Some(scene) = Scene::sh("true") else { return };
    let (shim, created) = Shim::created(&scene);
    pidfd::kill(&shim.child.pidfd).unwrap();
    assert!(pidfd::wait_exit(&shim.child.pidfd, LIMIT).unwrap());
    // Nobody will open the gate any more. It is an orphan: its parent is whoever reaps orphans here.
    until("init to end", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", created.pid)).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn a_holder_that_is_gone_is_named() {
    let Some(scene) = Scene::sh("true") else { return };
    let holder = holder(&scene, true, false);
    pidfd::kill(holder.pidfd()).unwrap();
    assert!(pidfd::wait_exit(holder.pidfd(), LIMIT).unwrap());
    let mut shim = Shim::spawn(&scene, holder);
    let seq = shim.send_create(&scene, request(&scene), &[]);
    let Answer::Failed(failure) = shim.agent.answer(seq) else { panic!() };
    assert!(failure.stage.contains("holder"), "{failure}");
    shim.gone(&scene);
}
