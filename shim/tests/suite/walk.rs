//! From create to exit.

use holdfast_pod::protocol::{Answer, Phase, Request};
use serde_json::json;

use crate::harness::{Shim, record, until};
use crate::scene::Scene;

#[test]
fn create_commit_start_exit() {
    let Some(scene) = Scene::sh("echo hello; echo oops >&2; exit 3") else { return };
    let (mut shim, created) = Shim::created(&scene);
    assert!(created.pid > 1 && created.start_time > 0);
    assert_eq!((created.user.uid, created.user.home.as_str()), (0, "/root"));
    assert!(scene.log().exists(), "the log is there before it is started");
    let Answer::State(state) = shim.agent.call(Request::State) else { panic!() };
    assert_eq!((state.phase, state.started_at_ns), (Phase::Created, 0));
    assert_eq!(state.created, created);
    shim.agent.start();
    let exited = shim.agent.exited();
    assert_eq!((exited.exit_code, exited.signal, exited.oom_killed), (3, 0, false));
    assert!(0 < exited.started_at_ns && exited.started_at_ns <= exited.finished_at_ns);
    assert_eq!(record(&scene), exited);
    shim.gone(&scene);
    let mut lines = scene.lines();
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F hello"]);
}

#[test]
fn a_signal_is_its_exit_code() {
    let Some(scene) = Scene::sh("trap 'exit 7' TERM; echo ready; while true; do sleep 0.01; done") else {
        return;
    };
    for (signal, code, number) in [(15, 7, 0), (9, 137, 9)] {
        let mut shim = Shim::started(&scene);
        until("the trap", || scene.lines().last().is_some_and(|line| line.ends_with("ready")));
        shim.agent.ok(Request::Signal { signal });
        let exited = shim.agent.exited();
        assert_eq!((exited.exit_code, exited.signal), (code, number));
        shim.gone(&scene);
        std::fs::remove_file(scene.log()).unwrap();
    }
}

#[test]
fn killed_at_the_gate_it_has_a_record_too() {
    let Some(scene) = Scene::sh("echo never") else { return };
    let (mut shim, _) = Shim::created(&scene);
    shim.agent.ok(Request::Kill);
    let exited = shim.agent.exited();
    assert_eq!((exited.exit_code, exited.started_at_ns), (137, 0));
    shim.gone(&scene);
    assert!(scene.lines().is_empty());
}

#[test]
fn the_environment_is_the_specs_with_a_home() {
    let Some(mut scene) = Scene::sh("env | grep -v ^RAW | grep -v ^SHLVL | grep -v ^PWD; env | grep -c ^RAW")
    else {
        return;
    };
    scene.process()["cwd"] = json!("/work");
    assert_eq!(Shim::run(&scene).exit_code, 0);
    let mut lines = scene.lines();
    lines.sort();
    assert_eq!(
        lines,
        ["stdout F 1", "stdout F FOO=bar", "stdout F HOME=/root", "stdout F PATH=/usr/bin:/bin"]
    );
}

#[test]
fn shutdown_ends_whatever_there_is() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    shim.agent.ok(Request::Shutdown);
    shim.gone(&scene);
    assert_eq!(record(&scene).exit_code, 137);
}

#[test]
fn calls_at_the_wrong_time_say_so() {
    use holdfast_pod::protocol::FaultKind;
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let (mut shim, _) = Shim::created(&scene);
    for request in [Request::ReopenLog, Request::Placed] {
        assert_eq!(shim.agent.failure(request).kind, FaultKind::Precondition);
    }
    shim.agent.start();
    for request in [Request::Start, Request::Placed, Request::Resize { width: 1, height: 1 }] {
        assert_eq!(shim.agent.failure(request).kind, FaultKind::Precondition);
    }
    assert_eq!(shim.agent.failure(Request::Signal { signal: 99 }).kind, FaultKind::Invalid);
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}
