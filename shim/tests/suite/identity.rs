//! Whom a process belongs to beside its ids: keyring, limits, and what is written for it into /proc.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use holdfast_pod::protocol::{Event, Request};
use serde_json::{Value, json};

use crate::harness::{Shim, holder, request};
use crate::scene::{Scene, process};
use crate::userns::mapped;

const PERL: &str = "/usr/bin/perl";

/// A program that prints the id of its session keyring (KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING).
fn print_keyring() -> String {
    format!("$| = 1; print syscall({}, 0, -3, 0), qq(\\n);", libc::SYS_keyctl)
}

/// With the host's perl in it.
fn with_perl(scene: Option<Scene>) -> Option<Scene> {
    let mut scene = scene?;
    if !Path::new(PERL).exists() {
        println!("SKIP: needs {PERL} (Debian perl-base)");
        return None;
    }
    scene.bind(Path::new("/usr"), "/usr", &["ro"]);
    for name in ["lib", "lib64"] {
        symlink(format!("usr/{name}"), scene.path("lower").join(name)).unwrap();
    }
    Some(scene)
}

/// One for the container and its execs, and not the one that its shim was started with.
#[test]
fn a_container_has_a_session_keyring_that_its_execs_share() {
    let script = format!("{PERL} -e '{}'; sleep 1000", print_keyring());
    for scene in [with_perl(Scene::sh(&script)), with_perl(mapped(&script))] {
        let Some(scene) = scene else { return };
        let ours = Command::new(PERL).args(["-e", &print_keyring()]).output().unwrap();
        let ours = String::from_utf8(ours.stdout).unwrap().trim().to_owned();
        if ours == "-1" {
            println!("SKIP: no keys here");
            return;
        }
        let mut shim = Shim::started(&scene);
        crate::harness::until("its keyring", || !scene.lines().is_empty());
        let line = scene.lines().remove(0);
        let own = line.strip_prefix("stdout F ").unwrap_or(&line);
        assert!(own.parse::<i64>().is_ok_and(|id| id > 0) && own != ours, "{own} beside {ours}");
        // More often than a user namespace has room for keys of one user.
        for id in 1..4 {
            let mut exec = process(&[PERL, "-e", &print_keyring()]);
            exec["user"] = json!({"uid": 1000 * id, "gid": 0});
            assert_eq!(shim.output(id, &exec), (format!("{own}\n"), 0));
        }
        shim.agent.ok(Request::Kill);
        shim.agent.exited();
        shim.gone(&scene);
    }
}

/// Hard limits above our own take CAP_SYS_RESOURCE, which counts for nothing behind a user namespace: they are raised
/// before, or somebody is told.
#[test]
fn limits_above_ours_are_had_or_told_of() {
    let ours = rustix::process::getrlimit(rustix::process::Resource::Msgqueue);
    let Some(ours) = ours.maximum else { return println!("SKIP: our limit is as high as can be") };
    let may = holdfast_sys::caps::permitted().unwrap().contains(holdfast_sys::caps::Set::SYS_RESOURCE);
    let script = "grep msgqueue /proc/self/limits | tr -s ' '; sleep 1000";
    for scene in [Scene::sh(script), mapped(script)] {
        let Some(mut scene) = scene else { return };
        let limits = json!([{"type": "RLIMIT_MSGQUEUE", "soft": 5, "hard": ours + 1}]);
        scene.process()["rlimits"] = limits.clone();
        let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &[]);
        shim.agent.start();
        let expected = format!("Max msgqueue size 5 {} bytes", if may { ours + 1 } else { ours });
        crate::harness::until("its limits", || !scene.lines().is_empty());
        assert!(scene.lines()[0].contains(&expected), "{:?}", scene.lines());
        let mut exec = process(&["sh", "-c", "grep msgqueue /proc/self/limits | tr -s ' '"]);
        exec["rlimits"] = limits;
        let (text, _) = shim.output(1, &exec);
        assert!(text.contains(&expected), "{text}");
        if !may {
            let told = |event: &Event| match event {
                Event::Warning { text } => Some(text.clone()),
                _ => None,
            };
            let text = shim.agent.event(told);
            assert!(text.contains(&format!("RLIMIT_MSGQUEUE is {ours} instead of {}", ours + 1)), "{text}");
        }
        shim.agent.ok(Request::Kill);
        shim.agent.exited();
        shim.gone(&scene);
    }
}

/// Labels and sysctls are written through a procfs of ours, whatever the container has at /proc.
#[test]
fn a_procfs_that_is_bound_is_not_what_is_written_to() {
    for mount in [
        Some(json!({"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "ro"]})),
        None,
    ] {
        let script = "cat /proc/sys/net/ipv4/ip_default_ttl 2>/dev/null || echo none";
        let Some(mut scene) = Scene::sh(script) else { return };
        let bound = mount.is_some();
        let mounts = scene.spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/proc");
        mounts.extend::<Option<Value>>(mount);
        scene.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "77"});
        assert_eq!(Shim::run(&scene).exit_code, 0);
        assert_eq!(scene.lines(), [if bound { "stdout F 77" } else { "stdout F none" }]);
    }
}
