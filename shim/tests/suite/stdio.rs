//! Descriptors 0, 1 and 2: whatever is not a pipe or a terminal is the container's own null device.

use std::fs;
use std::os::unix::fs::MetadataExt;

use holdfast_pod::protocol::{Create, Exec, Request};
use serde_json::json;

use crate::harness::{Shim, holder, request, until};
use crate::scene::{Scene, process};
use crate::userns::mapped;

fn host() -> (u64, u64, u32, i64) {
    let null = fs::metadata("/dev/null").unwrap();
    (null.dev(), null.ino(), null.mode(), null.mtime())
}

#[test]
fn stdin_that_nobody_asked_for_is_the_containers_own_null() {
    let script = "
        stat -L -c %d:%i /proc/self/fd/0; stat -c %d:%i /dev/null; readlink /proc/self/fd/0
        cat; echo x > /proc/self/fd/0; chmod 600 /proc/self/fd/0; touch /proc/self/fd/0; stat -c %a /dev/null
    ";
    for scene in [Scene::sh(script), mapped(script)] {
        let Some(scene) = scene else { return };
        let before = host();
        let text = Shim::run_for_output(&scene);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], lines[1], "{text}");
        assert_eq!(lines[2..], ["/dev/null", "600"], "{text}");
        assert_eq!(host(), before);
    }
}

#[test]
fn without_a_dev_of_ours_it_is_nobodys() {
    let Some(mut scene) = Scene::sh("stat -L -c '%d:%i %t:%T' /proc/self/fd/0; cat; ls /dev") else { return };
    let dev = scene.path("dev");
    fs::create_dir(&dev).unwrap();
    let mounts = scene.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    scene.bind(&dev, "/dev", &[]);
    let text = Shim::run_for_output(&scene);
    let (device, inode, ..) = host();
    assert!(text.contains(" 1:3\n") && !text.starts_with(&format!("{device}:{inode} ")), "{text}");
}

/// Descriptors that another process of the pod might look at while the container is not yet its command.
#[test]
fn nothing_of_the_host_is_open_at_the_gate() {
    for tty in [false, true] {
        let Some(mut scene) = Scene::sh("true") else { return };
        scene.process()["terminal"] = json!(tty);
        let create = Create { tty, ..request(&scene) };
        let (mut shim, created) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
        let open = || -> Vec<_> {
            let open = fs::read_dir(format!("/proc/{}/fd", created.pid)).unwrap();
            open.map(|entry| entry.unwrap().path()).collect()
        };
        // The master of a terminal is closed behind the report that it was sent with: Created may be here before.
        until("stdio and the link alone to be open", || open().len() == 4);
        let open = open();
        for path in open {
            let (target, meta) = (fs::read_link(&path).unwrap(), fs::metadata(&path).unwrap());
            assert_ne!((meta.dev(), meta.ino()), (host().0, host().1), "{}", target.display());
        }
        shim.agent.ok(Request::Shutdown);
        shim.gone(&scene);
    }
}

#[test]
fn an_exec_without_stdin_has_the_containers_null_whatever_became_of_its_name() {
    for scene in [Scene::sh("sleep 1000"), mapped("sleep 1000")] {
        let Some(scene) = scene else { return };
        let mut shim = Shim::started(&scene);
        let sh = |script: &str| process(&["sh", "-c", script]);
        let (text, code) =
            shim.output(1, &sh("stat -L -c %d:%i /proc/self/fd/0; stat -c %d:%i /dev/null; cat; echo x >&0"));
        let lines: Vec<_> = text.lines().collect();
        assert!(code == 0 && lines.len() == 2 && lines[0] == lines[1], "{text}");
        let same = lines[0].to_owned();
        // As root of the container may do.
        assert_eq!(shim.output(2, &sh("mv /dev/null /dev/old && echo mine > /dev/null")).1, 0);
        let (text, code) = shim.output(3, &sh("stat -L -c %d:%i /proc/self/fd/0; cat"));
        assert_eq!((text.trim_end(), code), (same.as_str(), 0));
        // With nothing at all, too.
        let before = host();
        let script = "for n in 0 1 2; do stat -L -c %d:%i /proc/$$/fd/$n; done | cat > /tmp/seen; chmod 600 /proc/self/fd/1";
        shim.exec(4, &sh(script), &Exec::default(), &[]);
        assert_eq!(shim.agent.exec_exited(4), (0, false));
        let (text, _) = shim.output(5, &sh("cat /tmp/seen; stat -c %a /dev/old"));
        assert_eq!(text, format!("{same}\n{same}\n{same}\n600\n"));
        assert_eq!(host(), before);
        shim.agent.ok(Request::Kill);
        shim.agent.exited();
        shim.gone(&scene);
    }
}
