//! What Create refuses, and what Start does.

use std::fs;

use holdfast_pod::launch::UserRequest;
use holdfast_pod::protocol::{Answer, Create, FaultKind, Request};
use serde_json::json;

use crate::harness::{Shim, holder, record, request};
use crate::scene::Scene;

#[test]
fn a_mount_source_that_is_not_there() {
    let Some(mut scene) = Scene::sh("true") else { return };
    let missing = scene.path("missing");
    scene.bind(&missing, "/data", &[]);
    let failure = Shim::refused(&scene);
    assert_eq!((failure.kind, failure.errno), (FaultKind::Invalid, 2));
    assert!(failure.stage.contains(missing.to_str().unwrap()), "{failure}");
    assert!(failure.text.contains("make it on the host"), "{failure}");
    // One of the request is made, unless it cannot be.
    fs::write(scene.path("file"), "").unwrap();
    scene.make_sources = vec![scene.path("file/below")];
    let failure = Shim::refused(&scene);
    assert_eq!(failure.kind, FaultKind::Invalid);
    assert!(failure.stage.contains("file/below"), "{failure}");
}

#[test]
fn a_file_on_a_directory_and_a_strange_option() {
    let Some(mut scene) = Scene::sh("true") else { return };
    fs::write(scene.path("file"), "").unwrap();
    let file = scene.path("file");
    scene.bind(&file, "/etc", &[]);
    let failure = Shim::refused(&scene);
    assert_eq!(failure.kind, FaultKind::Invalid);
    assert!(failure.stage.contains("/etc") && failure.text.contains("has to be a file"), "{failure}");

    let Some(mut scene) = Scene::sh("true") else { return };
    scene.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]}));
    let failure = Shim::refused(&scene);
    assert_eq!(failure.kind, FaultKind::Invalid);
    assert!(failure.stage.contains("/t") && failure.text.contains("nonsense"), "{failure}");
}

#[test]
fn a_user_that_is_not_in_the_image() {
    for user in ["nobody", "65536x", "4294967296"] {
        let Some(mut scene) = Scene::sh("true") else { return };
        scene.user = UserRequest { user: user.into(), ..UserRequest::default() };
        let failure = Shim::refused(&scene);
        assert_eq!(failure.kind, FaultKind::Invalid);
        assert!(failure.to_string().contains(user), "{failure}");
    }
}

#[test]
fn a_passwd_that_is_too_long_or_never_ends() {
    let Some(mut scene) = Scene::sh("true") else { return };
    scene.user = UserRequest { user: "bob".into(), ..UserRequest::default() };
    let passwd = fs::File::create(scene.path("lower/etc/passwd")).unwrap();
    passwd.set_len(1 << 30).unwrap();
    let failure = Shim::refused(&scene);
    assert!(failure.text.contains("longer than"), "{failure}");
    // A FIFO without a writer would be waited for, for ever.
    fs::remove_file(scene.path("lower/etc/passwd")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mkfifoat(rustix::fs::CWD, scene.path("lower/etc/passwd"), mode).unwrap();
    let failure = Shim::refused(&scene);
    assert!(failure.text.contains("bob"), "{failure}");
}

#[test]
fn a_layer_that_is_not_there() {
    let Some(mut scene) = Scene::sh("true") else { return };
    scene.layers.push(scene.path("no-layer"));
    let failure = Shim::refused(&scene);
    assert!(failure.text.contains("no-layer"), "{failure}");
}

#[test]
fn a_limit_of_time_names_the_stage() {
    let Some(scene) = Scene::sh("true") else { return };
    let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
    // Nobody ever says that it is placed.
    let create = Create { await_placement: true, timeout_ms: 300, ..request(&scene) };
    let seq = shim.send_create(&scene, create, &[]);
    let Answer::Placing { pid } = shim.agent.answer(seq) else { panic!() };
    assert!(pid > 1);
    let Answer::Failed(failure) = shim.agent.answer(seq) else { panic!() };
    assert_eq!((failure.kind, failure.stage.as_str()), (FaultKind::Timeout, "await placement in the cgroup"));
    shim.gone(&scene);
}

#[test]
fn placement_is_awaited() {
    let Some(scene) = Scene::sh("exit 4") else { return };
    let mut shim = Shim::spawn(&scene, holder(&scene, true, false));
    let create = Create { await_placement: true, ..request(&scene) };
    let seq = shim.send_create(&scene, create, &[]);
    assert!(matches!(shim.agent.answer(seq), Answer::Placing { .. }));
    shim.agent.ok(Request::Placed);
    assert!(matches!(shim.agent.answer(seq), Answer::Created(_)));
    shim.agent.ok(Request::Commit);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 4);
    shim.gone(&scene);
}

fn start_error(scene: &Scene, kind: FaultKind, text: &str) {
    let (mut shim, _) = Shim::created(scene);
    let failure = shim.agent.failure(Request::Start);
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.to_string().contains(text), "{failure}");
    let exited = shim.agent.exited();
    assert_eq!((exited.exit_code, exited.reason.as_str()), (128, "StartError"));
    assert!(exited.message.contains(text), "{}", exited.message);
    assert_eq!(record(scene), exited);
    shim.gone(scene);
}

#[test]
fn a_command_that_cannot_run_is_starts_to_tell() {
    for (args, kind, text) in [
        (&["nonsense"][..], FaultKind::NotFound, "not in the PATH"),
        (&["/bin/nonsense"], FaultKind::NotFound, "/bin/nonsense"),
        (&["/etc"], FaultKind::Invalid, "directory"),
        (&["/bin/noexec"], FaultKind::Invalid, "permission denied"),
        (&["/bin/garbage"], FaultKind::Invalid, "exec format error"),
    ] {
        let Some(scene) = Scene::new(args) else { return };
        start_error(&scene, kind, text);
    }
}

#[test]
fn a_working_directory_is_starts_to_tell() {
    for cwd in ["/no/such/place", "/etc/passwd", "relative", "/proc/self/fd/3"] {
        let Some(mut scene) = Scene::sh("pwd; ls") else { return };
        scene.process()["cwd"] = json!(cwd);
        start_error(&scene, FaultKind::Invalid, cwd);
    }
}
