//! Mount points in a volume that others rename and replace all the while (runc CVE-2021-30465 and its kin).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_pod::protocol::{Answer, FaultKind, Request};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::harness::{Shim, holder, request};
use crate::scene::Scene;

/// How many starts: 500, or what `HOLDFAST_E2E_ROUNDS` says.
fn rounds() -> u32 {
    std::env::var("HOLDFAST_E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// Every kind of step that resolves a path in the root goes through a directory that becomes a symlink to the host's
/// canary, by its name and by climbing, and a directory again, thousands of times a second. A start may fail; what it
/// may not do is touch the canary.
#[test]
fn a_directory_that_becomes_a_link_while_containers_start() {
    let Some(mut scene) = Scene::sh("exit 0") else { return };
    for name in ["volume", "volume/target", "data", "canary"] {
        fs::create_dir(scene.path(name)).unwrap();
    }
    fs::write(scene.path("data/file"), "of the data\n").unwrap();
    fs::write(scene.path("canary/file"), "of the host\n").unwrap();
    let (volume, data, canary) = (scene.path("volume"), scene.path("data"), scene.path("canary"));
    symlink(&canary, volume.join("absolute")).unwrap();
    symlink(
        Path::new("../../../../../../../../../..").join(canary.strip_prefix("/").unwrap()),
        volume.join("climbing"),
    )
    .unwrap();
    scene.bind(&volume, "/volume", &[]);
    scene.bind(&data, "/volume/target/directory", &[]);
    scene.bind(&data.join("file"), "/volume/target/one/file", &[]);
    scene.mount(
        json!({"destination": "/volume/target/tmpfs", "type": "tmpfs", "source": "tmpfs", "options": []}),
    );
    scene.volumes = vec!["/volume/target/volume".into()];
    scene.process()["cwd"] = json!("/volume/target/work");
    let linux = &mut scene.spec["linux"];
    linux["maskedPaths"] = json!(["/volume/target/file", "/volume/target/directory"]);
    linux["readonlyPaths"] = json!(["/volume/target/one", "/volume/target"]);
    linux["devices"] = json!([{"path": "/volume/target/node", "type": "c", "major": 1, "minor": 3}]);

    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let swaps = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let swap = |with: &str, pause: Duration| {
        while !over.load(Ordering::Relaxed) {
            renameat_with(CWD, volume.join("target"), CWD, volume.join(with), RenameFlags::EXCHANGE).unwrap();
            swaps.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(pause);
        }
    };
    let (mut started, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| swap("absolute", Duration::from_micros(1)));
        scope.spawn(|| swap("climbing", Duration::from_micros(30)));
        let over = StopAtEnd(&over);
        for round in 0..rounds() {
            if start(&scene) {
                started += 1;
            } else {
                refused += 1;
            }
            let left: Vec<_> =
                fs::read_dir(&canary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["file"], "round {round}");
            assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "of the host\n", "round {round}");
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&canary).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o755, "round {round}");
        }
        drop(over);
    });
    assert_eq!(mounts(), before, "a mount on the host");
    let swaps = swaps.into_inner();
    println!("{started} started, {refused} were refused, {swaps} swaps");
    // The race was one: links were followed, within the container's root, and seldom was a start refused for it.
    assert!(
        started > 0 && swaps > u64::from(rounds()),
        "{started} started, {refused} were refused, {swaps} swaps"
    );
    let inside = scene.path("upper").join(canary.strip_prefix("/").unwrap());
    assert!(inside.is_dir(), "no link was ever followed: {}", inside.display());
}

/// Ends the racers even if the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One container's life, as far as it comes.
fn start(scene: &Scene) -> bool {
    let mut shim = Shim::spawn(scene, holder(scene, true, false));
    let seq = shim.send_create(scene, request(scene), &[]);
    let started = match shim.agent.answer(seq) {
        Answer::Created(_) => {
            shim.agent.ok(Request::Commit);
            // The working directory may be anything by now: Start tells, and the exit record too.
            let answer = shim.agent.call(Request::Start);
            shim.agent.exited();
            matches!(answer, Answer::Started { .. })
        }
        Answer::Failed(failure) => {
            assert!(matches!(failure.kind, FaultKind::Invalid | FaultKind::Internal), "{failure}");
            false
        }
        other => panic!("{other:?}"),
    };
    shim.gone(scene);
    started
}
