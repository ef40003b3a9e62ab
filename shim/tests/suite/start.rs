//! From the gate to the command: the working directory, and what is said of a start that seccomp ends.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use holdfast_pod::protocol::{Answer, Exec, FaultKind, FdRole, Request};
use serde_json::{Value, json};

use crate::harness::{Shim, holder, record, request};
use crate::scene::{Scene, process};

/// A user without capabilities, as the restricted Pod Security profile wants it.
fn restricted(process: &mut Value, cwd: &str) {
    process["user"] = json!({"uid": 1000, "gid": 1000});
    process["capabilities"] = json!({});
    process["noNewPrivileges"] = json!(true);
    process["cwd"] = json!(cwd);
}

/// As with other runtimes: images have a WORKDIR /root or /home/app and run as somebody else.
#[test]
fn a_working_directory_is_entered_as_root() {
    let script = "readlink /proc/self/cwd; grep CapEff /proc/self/status; ls . 2>/dev/null || echo closed";
    let Some(mut scene) = Scene::sh(script) else { return };
    let private = scene.path("lower/work/private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(private.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    restricted(scene.process(), "/work/private");
    let expected = "/work/private\nCapEff:\t0000000000000000\nclosed\n";
    let Some(kept) = Scene::sh("sleep 1000") else { return };
    assert_eq!(Shim::run(&scene).exit_code, 0);
    assert_eq!(scene.lines().join("\n").replace("stdout F ", "") + "\n", expected);
    // Execs likewise.
    fs::create_dir_all(kept.path("lower/work/private")).unwrap();
    fs::set_permissions(kept.path("lower/work/private"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut shim = Shim::started(&kept);
    let mut exec = process(&["sh", "-c", script]);
    restricted(&mut exec, "/work/private");
    assert_eq!(shim.output(1, &exec), (expected.to_owned(), 0));
    restricted(&mut exec, "/no/such");
    let Answer::Failed(failure) = shim.exec(2, &exec, &Exec::default(), &[]) else { panic!() };
    assert!(failure.to_string().contains("/no/such"), "{failure}");
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&kept);
}

const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// A program that does these things with these calls and allows all others.
fn program(rules: &[(libc::c_long, u32)]) -> OwnedFd {
    let mut all = vec![(0x20_u16, 0_u8, 0_u8, 0_u32)];
    for (call, action) in rules {
        all.extend([(0x15, 0, 1, *call as u32), (0x06, 0, 0, *action)]);
    }
    all.push((0x06, 0, 0, 0x7fff_0000));
    let bytes: Vec<u8> = all
        .iter()
        .flat_map(|(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat())
        .collect();
    holdfast_sys::memfd::sealed("seccomp", &bytes).unwrap()
}

type Rules = &'static [(libc::c_long, u32)];

const EACCES: u32 = libc::EACCES as u32;

/// Starts that fail behind the gate, of which the stage cannot tell.
const SILENT: [(Rules, bool, &str); 4] = [
    // Dropping capabilities is the last thing before the command.
    (&[(libc::SYS_capset, KILL)], false, "ended without a word"),
    (&[(libc::SYS_execve, ERRNO | EACCES), (libc::SYS_sendmsg, KILL)], true, "Permission denied"),
    (&[(libc::SYS_execve, ERRNO | EACCES), (libc::SYS_sendmsg, ERRNO | EACCES)], true, "Permission denied"),
    // Words take memory.
    (
        &[
            (libc::SYS_execve, ERRNO | EACCES),
            (libc::SYS_sendmsg, KILL),
            (libc::SYS_brk, KILL),
            (libc::SYS_mmap, KILL),
            (libc::SYS_mremap, KILL),
            (libc::SYS_exit_group, ERRNO | EACCES),
        ],
        false,
        "Permission denied",
    ),
];

#[test]
fn a_container_that_dies_before_its_command_has_not_started() {
    for (rules, no_new_privs, text) in SILENT {
        let Some(mut scene) = Scene::sh("echo never") else { return };
        scene.process()["noNewPrivileges"] = json!(no_new_privs);
        let program = program(rules);
        let fds = [(FdRole::Seccomp, program.as_fd())];
        let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
        let failure = shim.agent.failure(Request::Start);
        assert!(failure.to_string().contains(text), "{rules:?}: {failure}");
        let exited = shim.agent.exited();
        assert_eq!((exited.exit_code, exited.reason.as_str()), (128, "StartError"), "{rules:?}");
        assert_eq!((record(&scene), scene.lines().len()), (exited, 0));
        shim.gone(&scene);
    }
}

#[test]
fn an_exec_that_dies_before_its_command_has_not_begun() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    for (id, (rules, no_new_privs, text)) in (1..).zip(SILENT) {
        let mut exec = process(&["echo", "never"]);
        exec["noNewPrivileges"] = json!(no_new_privs);
        let program = program(rules);
        let fds = [(FdRole::Seccomp, program.as_fd())];
        let Answer::Failed(failure) = shim.exec(id, &exec, &Exec::default(), &fds) else {
            panic!("{rules:?}")
        };
        assert!(failure.to_string().contains(text), "{rules:?}: {failure}");
    }
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}

/// A profile that allows execve and what the command itself needs is enough: nothing is looked up behind it.
#[test]
fn a_profile_need_not_allow_what_only_we_would_call() {
    // newfstatat is what the C library's stat(3) calls.
    let rules = [(libc::SYS_newfstatat, KILL), (libc::SYS_sendmsg, KILL), (libc::SYS_capset, KILL)];
    let Some(mut scene) = Scene::new(&["true"]) else { return };
    scene.process()["noNewPrivileges"] = json!(true);
    scene.process()["env"] = json!(["PATH=/no/such:/usr/bin:/bin"]);
    let program = program(&rules);
    let fds = [(FdRole::Seccomp, program.as_fd())];
    let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 0);
    shim.gone(&scene);
    // What is missing is said in words, for they are found before.
    let Some(mut scene) = Scene::new(&["nonsense"]) else { return };
    scene.process()["noNewPrivileges"] = json!(true);
    let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
    let failure = shim.agent.failure(Request::Start);
    assert_eq!(failure.kind, FaultKind::NotFound, "{failure}");
    shim.agent.exited();
    shim.gone(&scene);
}
