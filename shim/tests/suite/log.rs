//! The log file, byte by byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use holdfast_pod::protocol::{Create, FaultKind, Request};

use crate::harness::{Shim, holder, request, until};
use crate::scene::{Scene, lines_of};

/// The container's output again, from the log's records.
fn contents(log: &[u8], stream: &str) -> Vec<u8> {
    let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").expect("a torn line");
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let stamp = std::str::from_utf8(parts.next().unwrap()).unwrap();
        assert!(stamp.len() == 30 && stamp.ends_with('Z') && stamp.as_bytes()[10] == b'T', "{stamp}");
        let of = parts.next().unwrap();
        let tag = parts.next().unwrap();
        let content = parts.next().unwrap();
        assert!(content.len() <= 16384);
        if of == stream.as_bytes() {
            bytes.extend_from_slice(content);
            if tag == b"F" {
                bytes.push(b'\n');
            } else {
                assert_eq!(tag, b"P");
                pieces.push(content.len());
            }
        }
    }
    // Only the last one may be short: the stream ended there.
    let whole = pieces.len() - usize::from(bytes.last().is_some_and(|byte| *byte != b'\n'));
    assert!(pieces[..whole].iter().all(|len| *len == 16384), "{pieces:?}");
    bytes
}

#[test]
fn long_and_binary_lines_are_exact() {
    let script = "cat /data; cat /data >&2; printf 'no end'";
    let Some(mut scene) = Scene::sh(script) else { return };
    let mut data = Vec::new();
    for len in [0, 1, 16_383, 16_384, 16_385, 40_000, 300_000] {
        data.extend((0..len).map(|n: usize| (n * 7 % 251) as u8).map(|b| if b == b'\n' { 0 } else { b }));
        data.push(b'\n');
    }
    let source = scene.path("data");
    fs::write(&source, &data).unwrap();
    scene.bind(&source, "/data", &["ro"]);
    assert_eq!(Shim::run(&scene).exit_code, 0);
    let log = fs::read(scene.log()).unwrap();
    let mut expected = data.clone();
    expected.extend_from_slice(b"no end");
    assert!(contents(&log, "stdout") == expected, "stdout differs");
    assert!(contents(&log, "stderr") == data, "stderr differs");
    assert_eq!(fs::metadata(scene.log()).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn rotation_loses_nothing() {
    let Some(scene) = Scene::sh("seq 1 50000; echo done >&2; while true; do sleep 0.01; done") else {
        return;
    };
    let mut shim = Shim::started(&scene);
    let mut files = Vec::new();
    for number in 0..10 {
        let old = scene.path(&format!("logs/0.log.{number}"));
        fs::rename(scene.log(), &old).unwrap();
        shim.agent.ok(Request::ReopenLog);
        assert!(scene.log().exists());
        files.push(old);
    }
    files.push(scene.log());
    let all = || files.iter().flat_map(|file| lines_of(file)).collect::<Vec<_>>();
    until("the last line", || all().iter().any(|line| line == "stderr F done"));
    shim.agent.ok(Request::Kill);
    assert_eq!(shim.agent.exited().log_lines_dropped, 0);
    shim.gone(&scene);
    let numbers: Vec<_> = all().into_iter().filter(|line| line.starts_with("stdout")).collect();
    let expected: Vec<_> = (1..=50_000).map(|number| format!("stdout F {number}")).collect();
    assert!(numbers == expected, "{} lines", numbers.len());
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on_in_the_old_file() {
    let Some(scene) = Scene::sh("trap 'echo still; exit 0' TERM; echo up; while true; do sleep 0.01; done")
    else {
        return;
    };
    let mut shim = Shim::started(&scene);
    until("output", || !scene.lines().is_empty());
    let moved = scene.path("moved");
    fs::rename(scene.path("logs"), &moved).unwrap();
    let failure = shim.agent.failure(Request::ReopenLog);
    assert!(failure.stage.contains("0.log") && failure.errno == 2, "{failure:?}");
    shim.agent.ok(Request::Signal { signal: 15 });
    shim.agent.exited();
    shim.gone(&scene);
    assert_eq!(lines_of(&moved.join("0.log")), ["stdout F up", "stdout F still"]);
}

#[test]
fn without_its_directory_create_fails() {
    let Some(scene) = Scene::sh("true") else { return };
    fs::remove_dir(scene.path("logs")).unwrap();
    let failure = Shim::refused(&scene);
    assert_eq!(failure.kind, FaultKind::Invalid);
    assert!(failure.stage.contains("/logs/0.log") && failure.text.contains("directory"), "{failure}");
}

#[test]
fn without_a_log_output_is_dropped_and_nobody_waits() {
    let Some(scene) = Scene::sh("yes | head -c 1000000") else { return };
    let create = Create { log_path: None, ..request(&scene) };
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 0);
    shim.gone(&scene);
}

#[test]
fn a_full_disk_stops_nobody() {
    let Some(mut scene) = Scene::sh("yes 0123456789 | head -c 3000000; echo end") else { return };
    // A file system of its own in a mount namespace of its own would be the shim's to see: a size limit does as well.
    scene.process()["rlimits"] = serde_json::json!([]);
    let log = std::path::Path::new("/dev/full");
    let create = Create { log_path: Some(log.to_owned()), drain_ms: 100, ..request(&scene) };
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
    shim.agent.start();
    let exited = shim.agent.exited();
    assert_eq!(exited.exit_code, 0);
    assert_eq!(exited.log_lines_dropped, 3_000_000 / 11 + 1 + u64::from(3_000_000 % 11 > 0) - 1);
    shim.gone(&scene);
}
