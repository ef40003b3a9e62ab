//! Killing in real groups: in the unified hierarchy of this host, whose core files need no controller, and in v1's.

use std::{
    fs,
    io::Write as _,
    process::{Child, Command, Stdio},
};

use super::*;
use crate::group;

#[test]
fn within_means_the_group_or_below() {
    assert!(is_within("/a/b", "/a/b") && is_within("/a/b/c", "/a/b") && is_within("/x/a/b", "/a/b"));
    assert!(!is_within("/a/bc", "/a/b") && !is_within("/", "/a/b") && !is_within("/a", "/a/b"));
}

#[test]
fn no_other_process_than_a_member_is_signalled() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    // Group "" would hold every process: only the guard stands before this one's end.
    for pid in [-1, 0, own] {
        assert!(kill_one(Member { pid, thread: pid }, "").unwrap().is_none());
    }
    let pid = rustix::process::getppid().unwrap().as_raw_nonzero().get();
    assert!(kill_one(Member { pid, thread: pid }, "/holdfast-no-such-group").unwrap().is_none());
}

/// A group of this test with processes in it, gone at its end.
struct Scene {
    layout: Layout,
    location: Location,
    children: Vec<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What a child forked would outlive it.
        let _ = kill(&self.layout, &self.location);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = group::remove(&self.layout, self.location.path());
    }
}

impl Scene {
    fn new(layout: Layout, name: &str) -> Self {
        let path = format!("/holdfast-test-{}-{name}", std::process::id());
        for hierarchy in &layout.hierarchies {
            group::make_path(hierarchy, &path, false, &mut Vec::new()).unwrap();
        }
        Self { layout, location: Location::group(&path).unwrap(), children: Vec::new() }
    }

    /// The unified hierarchy alone, as if nothing else was mounted. `None`: it is not there, or we may not write to it.
    fn unified(name: &str) -> Option<Self> {
        let found = Layout::detect().ok().and_then(|layout| Some(layout.unified()?.root.clone()));
        let Some(root) = found.filter(|_| rustix::process::geteuid().is_root()) else {
            println!("SKIP: this host has no cgroup v2, or we are not root");
            return None;
        };
        Some(Self::new(Layout::v2(root), name))
    }

    fn dir(&self, controller: &str) -> PathBuf {
        self.layout.of(controller).unwrap().dir(self.location.path())
    }

    /// A process in `sub` of the group, in every hierarchy. It is there before it begins, and so are its children.
    fn run(&mut self, sub: &str, script: &str) {
        let script = format!("read begin; {script}");
        let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let begin = child.stdin.take();
        let pid = child.id().to_string();
        self.children.push(child);
        for hierarchy in &self.layout.hierarchies {
            let path = format!("{}/{sub}", self.location.path());
            group::make_path(hierarchy, &path, false, &mut Vec::new()).unwrap();
            fs::write(hierarchy.dir(&path).join("cgroup.procs"), &pid).unwrap();
        }
        begin.unwrap().write_all(b"\n").unwrap();
    }

    /// Kills, and finds everybody killed and the group empty.
    fn all_are_killed(mut self) {
        kill(&self.layout, &self.location).unwrap();
        assert!(pids(&self.layout, self.location.path()).unwrap().is_empty());
        for child in &mut self.children {
            // By SIGKILL; a shell that was kept from forking (pids.max) may end before it with an error.
            assert!(!child.wait().unwrap().success());
        }
        group::remove(&self.layout, self.location.path()).unwrap();
        assert!(self.layout.hierarchies.iter().all(|one| !one.dir(self.location.path()).exists()));
        kill(&self.layout, &self.location).unwrap();
    }
}

const FOR_EVER: &str = "trap '' TERM; while :; do sleep 100; done";

#[test]
fn sub_groups_are_killed_as_well() {
    let Some(mut scene) = Scene::unified("sub") else { return };
    scene.run("", FOR_EVER);
    scene.run("one", FOR_EVER);
    scene.run("one/two", FOR_EVER);
    scene.all_are_killed();
}

/// `cgroup.kill` answers EOPNOTSUPP there, as does reading `cgroup.procs`.
#[test]
fn a_threaded_group_is_killed_one_by_one() {
    let Some(mut scene) = Scene::unified("threaded") else { return };
    fs::write(scene.dir("").join("cgroup.type"), "threaded").unwrap();
    scene.run("", FOR_EVER);
    let refused = GroupDir::open(scene.dir("")).unwrap().write("cgroup.kill", "1").unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::OPNOTSUPP.raw_os_error()));
    let own = i32::try_from(scene.children[0].id()).unwrap();
    assert!(pids(&scene.layout, scene.location.path()).unwrap().contains(&own));
    scene.all_are_killed();
}

#[test]
fn without_the_kernels_help_as_on_linux_5_10() {
    let Some(mut scene) = Scene::unified("old") else { return };
    scene.run("", FOR_EVER);
    scene.run("one/two", "while :; do sleep 0.01 & done");
    stop_forks(&scene.layout, &scene.location);
    one_by_one(&scene.layout, scene.location.path(), Instant::now() + LIMIT).unwrap();
    scene.all_are_killed();
}

#[test]
fn a_frozen_group_is_killed() {
    let Some(mut scene) = Scene::unified("frozen") else { return };
    scene.run("sub", FOR_EVER);
    fs::write(scene.dir("").join("cgroup.freeze"), "1").unwrap();
    scene.all_are_killed();
}

/// v1's freezer keeps even from dying, so it is opened; and nothing can fork meanwhile.
#[test]
fn in_every_hierarchy_of_this_host() {
    let layout = Layout::detect().unwrap();
    if layout.mode == Mode::V2 || !rustix::process::geteuid().is_root() {
        println!("SKIP: this host has no cgroup v1, or we are not root");
        return;
    }
    let mut scene = Scene::new(layout, "v1");
    scene.run("", FOR_EVER);
    scene.run("sub", "while :; do sleep 0.01 & done");
    if scene.layout.of("freezer").is_some() {
        fs::write(scene.dir("freezer").join("sub/freezer.state"), "FROZEN").unwrap();
    }
    scene.all_are_killed();
}

/// What keeps the processes is named: it is another's group.
#[test]
fn a_frozen_group_above_is_named() {
    let layout = Layout::detect().unwrap();
    let root = rustix::process::geteuid().is_root();
    if layout.mode == Mode::V2 || layout.of("freezer").is_none() || !root {
        println!("SKIP: this host has no v1 freezer, or we are not root");
        return;
    }
    let mut scene = Scene::new(layout, "above");
    scene.run("sub", FOR_EVER);
    let state = scene.dir("freezer").join("freezer.state");
    fs::write(&state, "FROZEN").unwrap();
    let below = format!("{}/sub", scene.location.path());
    let error = one_by_one(&scene.layout, &below, Instant::now() + Duration::from_millis(300)).unwrap_err();
    fs::write(&state, "THAWED").unwrap();
    let text = error.to_string();
    let above = scene.dir("freezer");
    assert!(
        text.contains("(sh, state ") && text.contains(&format!("{} is frozen", above.display())),
        "{text}"
    );
    scene.all_are_killed();
}

/// Whoever ends by itself is waited for.
#[test]
fn a_group_is_removed_once_its_last_process_has_ended() {
    let mut scenes: Vec<_> = Scene::unified("ends").into_iter().collect();
    if rustix::process::geteuid().is_root() {
        scenes.push(Scene::new(Layout::detect().unwrap(), "ends-too"));
    }
    for mut scene in scenes {
        scene.run("", "sleep 0.3");
        scene.run("sub", "sleep 0.1");
        group::remove(&scene.layout, scene.location.path()).unwrap();
        assert!(scene.children.iter_mut().all(|child| child.wait().unwrap().success()));
        assert!(scene.layout.hierarchies.iter().all(|one| !one.dir(scene.location.path()).exists()));
    }
}
