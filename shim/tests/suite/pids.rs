//! Containers without a pid namespace of their own, and cgroups.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_pod::protocol::{Answer, Create, Event, Exec, FaultKind, FdRole, Request};
use holdfast_sys::ns;
use serde_json::json;

use crate::harness::{Shim, holder, request, until};
use crate::scene::Scene;

/// A group of the test's own in one hierarchy.
struct Group(PathBuf);

impl Group {
    fn new(hierarchy: &str, name: &str) -> Option<Self> {
        let top = Path::new("/sys/fs/cgroup").join(hierarchy);
        let group = top.join(format!("holdfast-shim-test-{}-{name}", std::process::id()));
        if let Err(e) = fs::create_dir(&group) {
            println!("SKIP: no cgroup {}: {e}", group.display());
            return None;
        }
        Some(Self(group))
    }

    fn tasks(&self) -> File {
        File::options().write(true).open(self.0.join("tasks")).unwrap()
    }

    fn processes(&self) -> String {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap()
    }

    fn pids(&self) -> Vec<i32> {
        self.processes().lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Moves processes to a group below this one.
    fn move_below(&self, pids: &[i32]) {
        let below = self.0.join("below");
        if !below.exists() {
            fs::create_dir(&below).unwrap();
        }
        for pid in pids {
            fs::write(below.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    fn below(&self) -> String {
        fs::read_to_string(self.0.join("below/cgroup.procs")).unwrap()
    }

    /// Freezes it by what the hierarchy has for that.
    fn freeze(&self, frozen: bool) {
        let v1 = self.0.join("freezer.state");
        if v1.exists() {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            fs::write(&v1, state).unwrap();
            until("the group to freeze", || fs::read_to_string(&v1).unwrap().trim() == state);
            return;
        }
        fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
        let wanted = format!("frozen {}", u8::from(frozen));
        until("the group to freeze", || {
            fs::read_to_string(self.0.join("cgroup.events")).unwrap().contains(&wanted)
        });
    }
}

/// Name of the hierarchy of cgroup v2.
fn unified() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "" } else { "unified" }
}

/// A group of a v1 hierarchy, or of the unified one, and how the shim is told of it.
fn group_of(hierarchy: &str, name: &str) -> Option<(Group, File, FdRole)> {
    let group = Group::new(hierarchy, name)?;
    if hierarchy == unified() {
        let dir = File::open(&group.0).unwrap();
        return Some((group, dir, FdRole::CgroupDir));
    }
    let tasks = group.tasks();
    Some((group, tasks, FdRole::CgroupTasks))
}

impl Drop for Group {
    fn drop(&mut self) {
        let below = self.0.join("below");
        until("the group below to be empty", || fs::remove_dir(&below).is_ok() || !below.exists());
        until("the group to be empty", || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

fn shared(scene: &mut Scene) -> Create {
    scene.join |= ns::NEWPID;
    scene.own &= !ns::NEWPID;
    Create { own_pid_namespace: false, ..request(scene) }
}

/// init leaves two behind: a child, and one that has a session of its own and ignores what it can.
const LEAVES: &str = "sleep 4001 & setsid sh -c 'trap \"\" TERM HUP; sleep 4002' & echo up; exit 5";

#[test]
fn what_init_leaves_in_a_shared_pid_namespace_is_killed() {
    let Some(mut scene) = Scene::sh(LEAVES) else { return };
    let create = shared(&mut scene);
    let (Some(pids), Some(memory)) = (Group::new("pids", "left"), Group::new("memory", "left")) else {
        return;
    };
    let (one, two) = (pids.tasks(), memory.tasks());
    let fds = [(FdRole::CgroupTasks, one.as_fd()), (FdRole::CgroupTasks, two.as_fd())];
    let (mut shim, created) = Shim::created_with(&scene, create, holder(&scene, true, true), &fds);
    let pid = created.pid.to_string();
    assert!(pids.processes().contains(&pid) && memory.processes().contains(&pid));
    shim.agent.start();
    let exited = shim.agent.exited();
    assert_eq!(exited.exit_code, 5);
    assert_eq!(pids.processes(), "");
    shim.gone(&scene);
}

#[test]
fn the_same_by_the_unified_hierarchy() {
    let Some(mut scene) = Scene::sh(LEAVES) else { return };
    let create = shared(&mut scene);
    let Some(group) = Group::new(unified(), "unified") else { return };
    let dir = File::open(&group.0).unwrap();
    let fds = [(FdRole::CgroupDir, dir.as_fd())];
    let (mut shim, created) = Shim::created_with(&scene, create, holder(&scene, true, true), &fds);
    assert_eq!(group.processes().trim(), created.pid.to_string());
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 5);
    assert_eq!(group.processes(), "");
    shim.gone(&scene);
}

#[test]
fn an_exec_is_in_the_containers_groups() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let (Some(pids), Some(unified)) = (Group::new("pids", "exec"), Group::new("unified", "exec")) else {
        return;
    };
    let (tasks, dir) = (pids.tasks(), File::open(&unified.0).unwrap());
    let fds = [(FdRole::CgroupTasks, tasks.as_fd()), (FdRole::CgroupDir, dir.as_fd())];
    let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
    shim.agent.start();
    let (output, code) = shim.output(1, &crate::scene::process(&["cat", "/proc/self/cgroup"]));
    assert_eq!(code, 0);
    // As the container's cgroup namespace shows it: at the root, which is its own group.
    assert!(output.contains(":pids:/\n") && output.contains("0::/\n"), "{output}");
    assert!(!output.contains("holdfast-shim-test"), "{output}");
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}

#[test]
fn the_hosts_pid_namespace_too() {
    let Some(mut scene) = Scene::sh(LEAVES) else { return };
    scene.own &= !ns::NEWPID;
    let create = Create { own_pid_namespace: false, ..request(&scene) };
    let Some(group) = Group::new("pids", "host") else { return };
    let tasks = group.tasks();
    let fds = [(FdRole::CgroupTasks, tasks.as_fd())];
    let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, false), &fds);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 5);
    assert_eq!(group.processes(), "");
    shim.gone(&scene);
}

#[test]
fn a_target_containers_pid_namespace_is_joined() {
    let Some(scene) = Scene::sh("exec sleep 5001") else { return };
    let (mut target, created) = Shim::created(&scene);
    target.agent.start();
    let Some(mut guest) = Scene::sh("ps -o args") else { return };
    guest.join |= ns::NEWPID;
    guest.own &= !ns::NEWPID;
    let Some(group) = Group::new("pids", "target") else { return };
    let tasks = group.tasks();
    let init = holdfast_sys::pidfd::open(created.pid).unwrap();
    let fds = [(FdRole::CgroupTasks, tasks.as_fd()), (FdRole::PidTarget, init.as_fd())];
    let create = Create { own_pid_namespace: false, ..request(&guest) };
    let (mut shim, _) = Shim::created_with(&guest, create, holder(&guest, true, false), &fds);
    shim.agent.start();
    shim.agent.exited();
    shim.gone(&guest);
    assert!(guest.lines().iter().any(|line| line.ends_with("sleep 5001")), "{:?}", guest.lines());
    target.agent.ok(Request::Shutdown);
    target.gone(&scene);
}

#[test]
fn a_memory_limit_is_told() {
    let Some(mut scene) =
        Scene::sh("head -c 100000000 /dev/zero | tr '\\0' x > /dev/shm/x; cat /big; echo over")
    else {
        return;
    };
    scene.mount(json!({"destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": []}));
    scene.process()["args"] = json!(["/bin/sh", "-c", "exec head -c 300000000 /dev/zero > /big/x"]);
    let Some(group) = Group::new("memory", "oom") else { return };
    fs::write(group.0.join("memory.limit_in_bytes"), "20000000").unwrap();
    let (tasks, oom) = (group.tasks(), File::open(group.0.join("memory.oom_control")).unwrap());
    let fds = [(FdRole::CgroupTasks, tasks.as_fd()), (FdRole::OomCount, oom.as_fd())];
    let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
    shim.agent.start();
    let exited = shim.agent.event(|event| match event {
        Event::Exited(record) => Some(record.clone()),
        _ => None,
    });
    assert_eq!((exited.exit_code, exited.oom_killed), (137, true));
    shim.gone(&scene);
}

/// Processes that the container has moved to cgroups below its own die with it.
#[test]
fn groups_below_are_killed_as_well() {
    for hierarchy in ["pids", unified()] {
        let Some(mut scene) = Scene::sh("sleep 4003 & read go </gate; exit 6") else { return };
        let gate = scene.path("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        scene.bind(&gate, "/gate", &[]);
        let create = shared(&mut scene);
        let Some((group, fd, role)) = group_of(hierarchy, "below") else { return };
        let fds = [(role, fd.as_fd())];
        let (mut shim, created) = Shim::created_with(&scene, create, holder(&scene, true, true), &fds);
        shim.agent.start();
        until("both processes", || group.pids().len() == 2);
        let left: Vec<i32> = group.pids().into_iter().filter(|pid| *pid != created.pid).collect();
        group.move_below(&left);
        assert_eq!(group.below().trim(), left[0].to_string());
        fs::write(&gate, "go\n").unwrap();
        assert_eq!(shim.agent.exited().exit_code, 6);
        assert_eq!(group.below(), "", "{hierarchy}");
        shim.gone(&scene);
    }
}

/// An exec is killed with its children, wherever below the container's group they are.
#[test]
fn an_exec_is_killed_in_groups_below() {
    for hierarchy in ["pids", unified()] {
        let Some(scene) = Scene::sh("sleep 1000") else { return };
        let Some((group, fd, role)) = group_of(hierarchy, "exec-below") else { return };
        let fds = [(role, fd.as_fd())];
        let (mut shim, created) =
            Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
        shim.agent.start();
        let process = crate::scene::process(&["sh", "-c", "setsid sleep 4004 & sleep 4005"]);
        let answer = shim.exec(1, &process, &Exec::default(), &[]);
        assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
        // The shell becomes its last command.
        until("all processes", || group.pids().len() == 3);
        group.move_below(&group.pids());
        assert_eq!(group.processes(), "");
        shim.agent.ok(Request::KillExec { exec_id: 1 });
        assert_eq!(shim.agent.exec_exited(1), (137, false));
        until("all but init to go", || group.below().trim() == created.pid.to_string());
        shim.agent.ok(Request::Kill);
        drop(shim.agent.exited());
        shim.gone(&scene);
    }
}

/// A frozen container holds up nobody for longer than he has said; when it goes on, nothing is left of it.
#[test]
fn an_exec_in_a_frozen_container_keeps_its_limit() {
    let limit = Exec { timeout_ms: 500, ..Exec::default() };
    for hierarchy in ["freezer", unified()] {
        let Some(scene) = Scene::sh("sleep 1000") else { return };
        let Some((group, fd, role)) = group_of(hierarchy, "frozen") else { return };
        let fds = [(role, fd.as_fd())];
        let (mut shim, created) =
            Shim::created_with(&scene, request(&scene), holder(&scene, true, false), &fds);
        shim.agent.start();
        // One that runs already, and one that cannot begin.
        let sleep = crate::scene::process(&["sleep", "4006"]);
        let answer = shim.exec(1, &sleep, &Exec { timeout_ms: 1500, ..Exec::default() }, &[]);
        assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
        group.freeze(true);
        let begun = Instant::now();
        let Answer::Failed(failure) = shim.exec(2, &sleep, &limit, &[]) else { panic!("it began") };
        assert!(failure.kind == FaultKind::Timeout && failure.text.contains("500 ms"), "{failure}");
        assert_eq!(shim.agent.exec_exited(1), (137, true));
        assert!(begun.elapsed() < Duration::from_secs(8), "{hierarchy}: {:?}", begun.elapsed());
        group.freeze(false);
        until("all but init to go", || group.pids() == [created.pid]);
        assert_eq!(shim.output(3, &crate::scene::process(&["echo", "on"])), ("on\n".to_owned(), 0));
        shim.agent.ok(Request::Kill);
        drop(shim.agent.exited());
        shim.gone(&scene);
    }
}

#[test]
fn a_frozen_container_can_be_killed() {
    for (hierarchy, pid) in [("freezer", false), (unified(), false), ("freezer", true), (unified(), true)] {
        let Some(mut scene) = Scene::sh("sleep 4007 & sleep 4008") else { return };
        let create = if pid { shared(&mut scene) } else { request(&scene) };
        let Some((group, fd, role)) = group_of(hierarchy, "stop-frozen") else { return };
        let fds = [(role, fd.as_fd())];
        let (mut shim, _) = Shim::created_with(&scene, create, holder(&scene, true, pid), &fds);
        shim.agent.start();
        until("all processes", || group.pids().len() == 2);
        group.freeze(true);
        let begun = Instant::now();
        shim.agent.ok(Request::Kill);
        assert_eq!(shim.agent.exited().exit_code, 137);
        assert!(begun.elapsed() < Duration::from_secs(2), "{hierarchy}: {:?}", begun.elapsed());
        assert_eq!(group.processes(), "");
        shim.gone(&scene);
    }
}
