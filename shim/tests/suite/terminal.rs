//! The container's terminal, whoever has its other end open.

use std::io::Read;
use std::os::fd::AsFd;

use holdfast_pod::protocol::{Answer, Attach, Create, FdRole, Request};

use crate::harness::{Shim, holder, request, until};
use crate::scene::Scene;

/// The container lets go of its terminal, and opens it again for each line, as systemd and others do with /dev/console.
#[test]
fn a_terminal_that_is_let_go_and_opened_again_loses_nothing() {
    let script = "echo one; exec </dev/null >/dev/null 2>&1; read go </gate; \
        for i in $(seq 1 1000); do echo \"line $i ....................\" >/dev/console; done; exit 7";
    let Some(mut scene) = Scene::sh(script) else { return };
    scene.spec["process"]["terminal"] = true.into();
    let gate = scene.path("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    scene.bind(&gate, "/gate", &[]);
    let create = Create { tty: true, ..request(&scene) };
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
    shim.agent.start();
    until("the first line", || scene.lines() == ["stdout F one"]);
    // Opening the gate ends only when the container stands there, and by then it has let go of its terminal.
    let mut go = std::fs::File::options().write(true).open(&gate).unwrap();
    let (mut out, out_end) = std::io::pipe().unwrap();
    let attach = Request::Attach(Attach { attach_id: 1, stdin: false });
    let seq = shim.agent.send(attach, &[(FdRole::Stdout, out_end.as_fd())]);
    assert!(matches!(shim.agent.answer(seq), Answer::Attached));
    drop(out_end);
    std::io::Write::write_all(&mut go, b"go\n").unwrap();
    drop(go);
    let mut attached = String::new();
    out.read_to_string(&mut attached).unwrap();
    assert_eq!(shim.agent.exited().exit_code, 7);
    shim.gone(&scene);
    let line = |number| format!("line {number} ....................");
    let expected: Vec<String> = (1..=1000).map(line).collect();
    let logged: Vec<String> =
        scene.lines().iter().skip(1).map(|line| line.trim_start_matches("stdout F ").to_owned()).collect();
    assert_eq!(logged, expected);
    assert_eq!(attached.lines().collect::<Vec<_>>(), expected);
}
