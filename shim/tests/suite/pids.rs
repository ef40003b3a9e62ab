//! Containers without a pid namespace of their own, and cgroups.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use holdfast_pod::protocol::{Create, Event, FdRole, Request};
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
}

impl Drop for Group {
    fn drop(&mut self) {
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
    let hierarchy = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "" } else { "unified" };
    let Some(group) = Group::new(hierarchy, "unified") else { return };
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
