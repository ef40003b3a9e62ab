//! What the container sees, and what it does not.

use std::fs;
use std::os::unix::fs::symlink;

use holdfast_pod::launch::UserRequest;
use holdfast_pod::protocol::{Create, Request};
use serde_json::json;

use crate::harness::{Shim, holder, request, until};
use crate::scene::Scene;

fn output(scene: &Scene) -> String {
    let record = Shim::run(scene);
    let text = scene
        .lines()
        .iter()
        .map(|line| line.split_once(" F ").unwrap().1.to_owned() + "\n")
        .collect::<String>();
    assert_eq!(record.exit_code, 0, "{text}");
    text
}

#[test]
fn devices_mounts_and_masks_are_there() {
    let script = "
        set -e
        for d in null zero full random urandom tty; do test -c /dev/$d; done
        test $(readlink /dev/ptmx) = pts/ptmx; test $(readlink /dev/fd) = /proc/self/fd
        head -c 4 /dev/zero | wc -c
        test -c /proc/keys; cat /proc/timer_list | wc -c
        test -z \"$(ls /sys/firmware)\"; ! touch /sys/firmware/x 2>/dev/null
        ! echo 1 2>/dev/null > /proc/sys/kernel/pid_max
        ! touch /sys/x 2>/dev/null
        echo shm > /dev/shm/x; cat /dev/shm/x
        df -k /dev/shm | grep -c 1024
        test -d /dev/mqueue; test -d /sys/fs/cgroup
        test $$ = 1; hostname
        touch /written; mknod /tmp/n c 1 3
    ";
    let Some(scene) = Scene::sh(script) else { return };
    assert_eq!(output(&scene), "4\n0\nshm\n1\npodhost\n");
    assert!(scene.path("upper/written").exists());
}

/// Else the exit of its last process waits for all that is dirty on the disk of its upper directory.
#[test]
fn no_end_of_a_container_syncs_a_disk() {
    let Some(scene) = Scene::sh("grep ' / / ' /proc/self/mountinfo; touch /made") else { return };
    let text = output(&scene);
    assert!(text.contains("overlay") && text.contains("volatile"), "{text}");
    assert!(scene.path("upper/made").exists());
}

#[test]
fn a_read_only_root_is_read_only_and_its_mounts_are_not() {
    let script = "! touch /x 2>/dev/null && ! touch /etc/x 2>/dev/null && echo a > /data/a && echo b > /dev/shm/b && echo ok";
    let Some(mut scene) = Scene::sh(script) else { return };
    fs::create_dir(scene.path("data")).unwrap();
    scene.spec["root"]["readonly"] = json!(true);
    let data = scene.path("data");
    scene.bind(&data, "/data", &[]);
    assert_eq!(output(&scene), "ok\n");
    assert_eq!(fs::read(data.join("a")).unwrap(), b"a\n");
}

#[test]
fn volumes_of_a_read_only_root_keep_the_images_content_and_are_writable() {
    let script = "cat /work/kept; echo new > /work/made && cat /work/made; echo x > /made/deep/x && cat /made/deep/x; \
                  touch /outside 2>/dev/null || echo refused";
    let Some(mut scene) = Scene::sh(script) else { return };
    scene.spec["root"] = json!({"path": "rootfs", "readonly": true});
    fs::write(scene.path("lower/work/kept"), "of the image\n").unwrap();
    scene.volumes = vec!["/made/deep".into(), "/work".into()];
    let text = output(&scene);
    assert_eq!(text.lines().collect::<Vec<_>>(), ["of the image", "new", "x", "refused"]);
}

#[test]
fn only_three_descriptors_and_no_way_back() {
    let script =
        "ls /proc/self/fd | tr '\\n' ' '; ls -l /proc/1/cwd /proc/1/root; grep -c . /proc/self/mountinfo";
    let Some(scene) = Scene::sh(script) else { return };
    let text = output(&scene);
    // 3 is the directory that ls itself reads.
    assert!(text.starts_with("0 1 2 3 "), "{text}");
    assert!(text.contains("cwd -> /\n") && text.contains("root -> /\n"), "{text}");
}

#[test]
fn bound_mounts_have_their_options() {
    let script = "
        ! touch /ro/x 2>/dev/null && ! touch /rro/sub/x 2>/dev/null && touch /rw/x && cat /file
        grep ' /ro ' /proc/self/mountinfo | grep -c nosuid
        ls -l /link/inside | wc -l
    ";
    let Some(mut scene) = Scene::sh(script) else { return };
    for name in ["ro", "rw", "rro", "rro/sub", "linked"] {
        fs::create_dir(scene.path(name)).unwrap();
    }
    fs::write(scene.path("file"), "content\n").unwrap();
    fs::write(scene.path("linked/inside"), "").unwrap();
    symlink(scene.path("linked"), scene.path("symlink")).unwrap();
    let at = |name: &str| scene.dir.path().join(name);
    let (ro, rw, rro, file, link) = (at("ro"), at("rw"), at("rro"), at("file"), at("symlink"));
    scene.bind(&ro, "/ro", &["ro", "nosuid"]);
    scene.bind(&rw, "/rw", &["rw", "rprivate"]);
    scene.bind(&rro, "/rro", &["rro"]);
    scene.bind(&file, "/file", &["ro"]);
    scene.bind(&link, "/link", &[]);
    assert_eq!(output(&scene), "content\n1\n1\n");
    assert!(scene.path("rw/x").exists());
    // What was made as mount points is in the upper layer alone.
    assert!(!scene.path("lower/ro").exists() && scene.path("upper/ro").exists());
}

#[test]
fn symlinks_of_the_image_lead_nowhere_else() {
    let Some(mut scene) = Scene::sh("cat /etc/resolv.conf; cat /far/in") else { return };
    let canary = scene.path("canary");
    fs::create_dir(&canary).unwrap();
    let lower = scene.path("lower");
    // A dangling link as a target, a link that points out of the image by name, and one that climbs.
    symlink("../run/resolv.conf", lower.join("etc/resolv.conf")).unwrap();
    symlink(&canary, lower.join("far")).unwrap();
    symlink("../../../../../../../../../../tmp", lower.join("up")).unwrap();
    let (resolv, data) = (scene.path("resolv"), scene.path("data"));
    fs::write(&resolv, "nameserver\n").unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("in"), "inside\n").unwrap();
    scene.bind(&resolv, "/etc/resolv.conf", &["ro"]);
    scene.bind(&data, "/far", &[]);
    scene.bind(&data, "/up/holdfast-shim-canary", &[]);
    assert_eq!(output(&scene), "nameserver\ninside\n");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    assert!(!std::path::Path::new("/tmp/holdfast-shim-canary").exists());
    assert!(scene.path("upper/run/resolv.conf").exists());
}

#[test]
fn a_proc_that_is_a_symlink_is_refused() {
    let Some(scene) = Scene::sh("true") else { return };
    symlink("/tmp", scene.path("lower/proc")).unwrap();
    let failure = Shim::refused(&scene);
    assert!(failure.stage.contains("/proc") && failure.text.contains("symlink"), "{failure}");
}

#[test]
fn the_user_comes_from_the_image() {
    let script = "id; echo $HOME; touch /tmp/mine; stat -c %u:%g /tmp/mine; echo by-name > /dev/stdout; grep CapEff /proc/self/status";
    let Some(mut scene) = Scene::sh(script) else { return };
    scene.user = UserRequest { user: "bob".into(), supplemental_groups: vec![77], ..UserRequest::default() };
    let text = output(&scene);
    assert!(
        text.starts_with(
            "uid=1000(bob) gid=1001(bob) groups=50(staff),77,1001(bob)\n/home/bob\n1000:1001\nby-name\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("CapEff:\t0000000000000000\n"), "{text}");
}

#[test]
fn ambient_capabilities_reach_a_user_and_the_missing_ones_are_masked() {
    let Some(mut scene) = Scene::sh("grep Cap /proc/self/status") else { return };
    let caps = json!(["CAP_NET_BIND_SERVICE", "CAP_SYS_RESOURCE"]);
    scene.process()["user"] = json!({"uid": 1000, "gid": 1000});
    scene.process()["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": [], "ambient": caps});
    let ours = holdfast_sys::caps::Bounding::read().ours;
    let wanted = ours & (holdfast_sys::caps::Set::NET_BIND_SERVICE | holdfast_sys::caps::Set::SYS_RESOURCE);
    let text = output(&scene);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t{:016x}\n", wanted.bits())), "{text}");
    }
}

#[test]
fn limits_are_set_as_far_as_they_may_be() {
    let Some(mut scene) = Scene::sh("ulimit -n; ulimit -c; umask; cat /proc/self/oom_score_adj") else {
        return;
    };
    scene.process()["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX},
    ]);
    scene.process()["oomScoreAdj"] = json!(500);
    let text = output(&scene);
    assert!(text.starts_with("100\n") && text.ends_with("\n0022\n500\n"), "{text}");
    // Lower than ours is not ours to have everywhere: nearest, and no failure.
    scene.process()["oomScoreAdj"] = json!(-998);
    fs::remove_file(scene.log()).unwrap();
    let text = output(&scene);
    let adjusted: i32 = text.lines().last().unwrap().parse().unwrap();
    assert!(adjusted <= 0, "{text}");
}

#[test]
fn a_terminal_is_the_containers_own() {
    let script =
        "test -t 0 && test -t 1 && tty; ls -l /dev/console | head -c 1; stty size; echo; exec sleep 1000";
    let Some(mut scene) = Scene::sh(script) else { return };
    scene.process()["terminal"] = json!(true);
    scene.process()["consoleSize"] = json!({"width": 90, "height": 30});
    let create = Create { tty: true, ..request(&scene) };
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &[]);
    shim.agent.ok(Request::Resize { width: 132, height: 43 });
    shim.agent.start();
    until("the size", || scene.lines().len() >= 3);
    let lines = scene.lines();
    assert_eq!(lines[0], "stdout F /dev/pts/0");
    // What the terminal makes of a line's end is the container's output too: the log keeps the carriage return.
    assert!(fs::read_to_string(scene.log()).unwrap().contains("stdout F /dev/pts/0\r\n"));
    assert!(lines[1].starts_with("stdout F c") && lines[1].contains("43 132"), "{lines:?}");
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}

#[test]
fn seccomp_is_loaded_last_with_and_without_no_new_privs() {
    // if (nr == mkdir) return EPERM; else allow.
    let program: Vec<u8> =
        [(0x20u16, 0u8, 0u8, 0u32), (0x15, 0, 1, 83), (0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x7fff_0000)]
            .iter()
            .flat_map(|(code, jt, jf, k)| {
                let mut bytes = code.to_ne_bytes().to_vec();
                bytes.extend([*jt, *jf]);
                bytes.extend(k.to_ne_bytes());
                bytes
            })
            .collect();
    for no_new_privs in [false, true] {
        let script = "mkdir /tmp/a 2>&1; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status";
        let Some(mut scene) = Scene::sh(script) else { return };
        scene.process()["noNewPrivileges"] = json!(no_new_privs);
        scene.process()["user"] = json!({"uid": 1000, "gid": 1000});
        let memfd = holdfast_sys::memfd::sealed("seccomp", &program).unwrap();
        let fds = [(holdfast_pod::protocol::FdRole::Seccomp, std::os::fd::AsFd::as_fd(&memfd))];
        let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
        shim.agent.start();
        assert_eq!(shim.agent.exited().exit_code, 0);
        shim.gone(&scene);
        let text = scene.lines().join("\n");
        assert!(text.contains("Operation not permitted") && text.contains("Seccomp:\t2"), "{text}");
        assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
        assert!(text.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privs))), "{text}");
    }
}

#[test]
fn our_program_cannot_be_written_to() {
    // While the container stands at the gate, its program is still ours; here it is asked for by its own name.
    let Some(scene) = Scene::new(&["/proc/self/exe"]) else { return };
    let (mut shim, _) = Shim::created(&scene);
    // A static build runs and prints its usage, another one finds no loader in the image. Neither is root's outside.
    shim.agent.call(Request::Start);
    assert_ne!(shim.agent.exited().exit_code, 0);
    shim.gone(&scene);
    let (mut shim, created) = Shim::created(&scene);
    let program = format!("/proc/{}/exe", created.pid);
    let error = fs::OpenOptions::new().write(true).open(program).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(26 | 30)), "{error}");
    let link = rustix::fs::statvfs(format!("/proc/{}/exe", created.pid)).unwrap();
    assert!(link.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    shim.agent.ok(Request::Shutdown);
    shim.gone(&scene);
}
