//! Further processes.

use std::os::fd::AsFd;

use holdfast_pod::protocol::{Answer, Exec, FaultKind, FdRole, Request};
use serde_json::json;

use crate::harness::{Agent, Shim, until};
use crate::scene::{Scene, process};

fn sh(script: &str) -> serde_json::Value {
    process(&["/bin/sh", "-c", script])
}

fn sleeping() -> Option<(Scene, Shim)> {
    let scene = Scene::new(&["/bin/sleep", "1000"])?;
    let shim = Shim::started(&scene);
    Some((scene, shim))
}

fn end(scene: &Scene, mut shim: Shim) {
    shim.agent.ok(Request::Kill);
    assert_eq!(shim.agent.exited().exit_code, 137);
    shim.gone(scene);
}

#[test]
fn output_and_exit_code_come_back() {
    let Some((scene, mut shim)) = sleeping() else { return };
    assert_eq!(shim.output(1, &process(&["true"])), (String::new(), 0));
    assert_eq!(shim.output(2, &sh("echo out; echo err >&2; exit 5")), ("out\nerr\n".into(), 5));
    assert_eq!(shim.output(3, &sh("kill -9 $$")), (String::new(), 137));
    let (output, _) = shim.output(4, &sh("ps -o pid,comm; ls /; hostname"));
    assert!(
        output.contains("    1 sleep") && output.contains("etc") && output.contains("podhost"),
        "{output}"
    );
    end(&scene, shim);
}

#[test]
fn the_oom_score_is_the_containers_and_not_ours() {
    let Some((scene, mut shim)) = sleeping() else { return };
    let mut process = process(&["cat", "/proc/self/oom_score_adj"]);
    process["oomScoreAdj"] = json!(700);
    assert_eq!(shim.output(1, &process), ("700\n".into(), 0));
    end(&scene, shim);
}

#[test]
fn stdin_is_what_was_passed() {
    let Some((scene, mut shim)) = sleeping() else { return };
    let (input, mut writer) = std::io::pipe().unwrap();
    let (mut reader, output) = std::io::pipe().unwrap();
    let fds = [(FdRole::Stdin, input.as_fd()), (FdRole::Stdout, output.as_fd())];
    let answer = shim.exec(1, &process(&["cat"]), &Exec::default(), &fds);
    assert!(matches!(answer, Answer::ExecStarted { pid } if pid > 1), "{answer:?}");
    drop((input, output));
    std::io::Write::write_all(&mut writer, b"through").unwrap();
    drop(writer);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!((text.as_str(), shim.agent.exec_exited(1)), ("through", (0, false)));
    end(&scene, shim);
}

#[test]
fn who_it_is_is_the_specs_business() {
    let Some((scene, mut shim)) = sleeping() else { return };
    let mut bob =
        sh("id; pwd; grep Cap /proc/self/status; grep NoNewPrivs /proc/self/status; echo via >/dev/stdout");
    bob["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [50, 60]});
    bob["cwd"] = json!("/tmp");
    bob["noNewPrivileges"] = json!(true);
    let (output, code) = shim.output(1, &bob);
    assert_eq!(code, 0, "{output}");
    assert!(
        output.starts_with("uid=1000(bob) gid=1001(bob) groups=50(staff),60,1001(bob)\n/tmp\n"),
        "{output}"
    );
    assert!(output.contains("CapInh:\t0000000000000000\n"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000\n"), "{output}");
    assert!(output.contains("CapBnd:\t00000000a80425fb\n"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1\n") && output.ends_with("via\n"), "{output}");
    end(&scene, shim);
}

#[test]
fn what_cannot_run_is_said() {
    let Some((scene, mut shim)) = sleeping() else { return };
    for (args, kind, text) in [
        (&["nonsense"][..], FaultKind::NotFound, "\"nonsense\" is not in the PATH of the image"),
        (&["/bin/nonsense"], FaultKind::NotFound, "\"/bin/nonsense\" is not in the image"),
        (&["/etc"], FaultKind::Invalid, "is a directory"),
        (&["/bin/noexec"], FaultKind::Invalid, "permission denied"),
        (&["/bin/garbage"], FaultKind::Invalid, "exec format error"),
        (&["/bin/lost"], FaultKind::Invalid, "interpreter"),
    ] {
        let Answer::Failed(failure) = shim.exec(1, &process(args), &Exec::default(), &[]) else { panic!() };
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.to_string().contains(text), "{failure}");
    }
    let mut lost = process(&["true"]);
    lost["cwd"] = json!("/no/such/place");
    let Answer::Failed(failure) = shim.exec(1, &lost, &Exec::default(), &[]) else { panic!() };
    assert!(failure.to_string().contains("/no/such/place"), "{failure}");
    end(&scene, shim);
}

#[test]
fn its_time_is_limited_and_nothing_of_it_is_left() {
    let Some((scene, mut shim)) = sleeping() else { return };
    // A child in the group, one in a session of its own, and an orphan in the session.
    let script = "sleep 2001 & setsid sleep 2002 & (sleep 2003 &) ; echo up; sleep 2004";
    let limited = Exec { timeout_ms: 700, ..Exec::default() };
    let (reader, writer) = std::io::pipe().unwrap();
    let answer = shim.exec(1, &sh(script), &limited, &[(FdRole::Stdout, writer.as_fd())]);
    assert!(matches!(answer, Answer::ExecStarted { .. }));
    drop(writer);
    assert_eq!(shim.agent.exec_exited(1), (137, true));
    // All of them had the pipe.
    assert_eq!(std::io::read_to_string(reader).unwrap(), "up\n");
    let (output, _) = shim.output(2, &process(&["ps", "-o", "args"]));
    assert!(!output.contains("sleep 200"), "{output}");
    end(&scene, shim);
}

#[test]
fn it_can_be_killed_and_goes_with_its_agent() {
    let Some((scene, mut shim)) = sleeping() else { return };
    let answer = shim.exec(7, &process(&["sleep", "3001"]), &Exec::default(), &[]);
    assert!(matches!(answer, Answer::ExecStarted { .. }));
    shim.agent.ok(Request::KillExec { exec_id: 7 });
    assert_eq!(shim.agent.exec_exited(7), (137, false));

    let kept = shim.exec(8, &process(&["sleep", "3002"]), &Exec::default(), &[]);
    let lost = Exec { kill_on_disconnect: true, ..Exec::default() };
    let gone = shim.exec(9, &process(&["sleep", "3003"]), &lost, &[]);
    assert!(matches!((&kept, &gone), (Answer::ExecStarted { .. }, Answer::ExecStarted { .. })));
    shim.agent = Agent::connect(&scene);
    assert_eq!(shim.agent.exec_exited(9), (137, false));
    let (output, _) = shim.output(10, &process(&["ps", "-o", "args"]));
    assert!(output.contains("sleep 3002") && !output.contains("sleep 3003"), "{output}");
    end(&scene, shim);
}

#[test]
fn many_at_once_each_have_their_own_end() {
    let Some((scene, mut shim)) = sleeping() else { return };
    for id in 0..32 {
        let answer = shim.exec(id, &sh(&format!("exit {id}")), &Exec::default(), &[]);
        assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
    }
    for id in 0..32 {
        assert_eq!(shim.agent.exec_exited(id), (id as i32, false));
    }
    end(&scene, shim);
}

#[test]
fn a_console_is_a_controlling_terminal() {
    let Some((scene, mut shim)) = sleeping() else { return };
    let with_terminal = Exec { tty: true, ..Exec::default() };
    let command = sh("test -t 0 && test -c \"$(tty)\" && echo yes >/dev/tty; sleep 1000");
    let answer = shim.exec(1, &command, &with_terminal, &[]);
    assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
    let master = shim.agent.passed.pop().unwrap();
    let mut text = [0; 64];
    let len = rustix::io::read(&master, &mut text).unwrap();
    assert_eq!(&text[..len], b"yes\r\n");
    // Nobody else has the master: hanging up ends the session.
    drop(master);
    assert_eq!(shim.agent.exec_exited(1), (129, false));
    end(&scene, shim);
}

#[test]
fn there_is_none_before_the_start_and_none_after_the_end() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let (mut shim, _) = Shim::created(&scene);
    let Answer::Failed(failure) = shim.exec(1, &process(&["true"]), &Exec::default(), &[]) else { panic!() };
    assert_eq!(failure.kind, FaultKind::Precondition);
    shim.agent.start();
    // The container's end is the end of all that is in it, and is told last.
    let answer = shim.exec(2, &process(&["sleep", "1000"]), &Exec::default(), &[]);
    assert!(matches!(answer, Answer::ExecStarted { .. }));
    shim.agent.ok(Request::Kill);
    assert_eq!(shim.agent.exec_exited(2).0, 137);
    shim.agent.exited();
    shim.gone(&scene);
    until("the socket to go", || !scene.path("run/shim.sock").exists());
}
