//! Groups that are made, marked, planned and removed again, in every hierarchy of this host.

use std::fs;

use super::*;

/// A pod-level group of this test below a parent of its own, gone at its end.
struct Scene {
    layout: Layout,
    parent: String,
    path: String,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: only root may make cgroups here");
            return None;
        }
        let parent = format!("/holdfast-test-{}-{name}", std::process::id());
        let path = format!("{parent}/pod");
        Some(Self { layout: Layout::detect().unwrap(), parent, path })
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        self.layout.hierarchies.iter().map(|hierarchy| hierarchy.dir(path)).collect()
    }

    fn is_gone(&self, path: &str) -> bool {
        self.dirs(path).iter().all(|dir| !dir.exists())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = remove(&self.layout, &self.parent);
    }
}

#[test]
fn what_was_planned_and_made_goes() {
    let Some(scene) = Scene::new("planned") else { return };
    let plan = plan(&scene.layout, &scene.path);
    assert_eq!((plan.dirs.len(), &plan.dirs), (2 * scene.layout.hierarchies.len(), &plan.missing));
    assert_eq!(make_pod(&scene.layout, &scene.path).unwrap().len(), plan.dirs.len());
    remove_made(&scene.layout, &plan).unwrap();
    assert!(scene.is_gone(&scene.parent));
}

/// A kill between mkdir and the mark leaves a group without one.
#[test]
fn what_was_planned_and_not_marked_goes_as_well() {
    let Some(scene) = Scene::new("unmarked") else { return };
    for cut in 0..2 * scene.layout.hierarchies.len() {
        let plan = plan(&scene.layout, &scene.path);
        // As far as the agent came: hierarchy by hierarchy, the parent first, all but the last one marked.
        for dir in &plan.dirs[..=cut] {
            fs::create_dir(dir).unwrap();
        }
        assert!(plan.dirs[..cut].iter().all(|dir| mark(dir)));
        remove_made(&scene.layout, &plan).unwrap();
        assert!(scene.is_gone(&scene.parent), "{cut}");
    }
}

#[test]
fn what_was_there_before_the_plan_stays() {
    let Some(scene) = Scene::new("there") else { return };
    // Somebody else's parent in every hierarchy, and the pod's group itself in one.
    let theirs: Vec<PathBuf> =
        scene.dirs(&scene.parent).into_iter().chain(scene.dirs(&scene.path).into_iter().take(1)).collect();
    for dir in &theirs {
        fs::create_dir(dir).unwrap();
    }
    let plan = plan(&scene.layout, &scene.path);
    assert!(theirs.iter().all(|dir| !plan.dirs.contains(dir)), "{plan:?}");
    make_pod(&scene.layout, &scene.path).unwrap();
    remove_made(&scene.layout, &plan).unwrap();
    assert!(theirs.iter().all(|dir| dir.exists()));
    assert!(scene.dirs(&scene.path).iter().skip(1).all(|dir| !dir.exists()));
}

/// Two pods, perhaps of two agents, below one parent that was missing when either was planned.
#[test]
fn a_shared_parent_goes_with_the_last_pod() {
    let Some(scene) = Scene::new("shared") else { return };
    let other = format!("{}/other", scene.parent);
    let (first, second) = (plan(&scene.layout, &scene.path), plan(&scene.layout, &other));
    make_pod(&scene.layout, &scene.path).unwrap();
    make_pod(&scene.layout, &other).unwrap();
    remove_made(&scene.layout, &first).unwrap();
    assert!(scene.is_gone(&scene.path) && scene.dirs(&other).iter().all(|dir| dir.exists()));
    remove_made(&scene.layout, &second).unwrap();
    assert!(scene.is_gone(&scene.parent));
}

/// Records of before know no `missing`, and a program of before passes it over.
#[test]
fn a_plan_of_an_older_record() {
    let older = r#"{"dirs":["/sys/fs/cgroup/memory/a"],"units":[]}"#;
    let made: Made = serde_json::from_str(older).unwrap();
    assert_eq!((made.dirs.len(), made.missing.len()), (1, 0));
    assert_eq!(serde_json::to_string(&made).unwrap(), older);
}

#[test]
fn who_keeps_a_group_is_named() {
    let Some(scene) = Scene::new("kept") else { return };
    make_pod(&scene.layout, &scene.path).unwrap();
    let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let hierarchy = &scene.layout.hierarchies[0];
    // Below: on v2 a group that gives controllers on has no processes of its own (cgroups(7), no internal processes).
    let group = hierarchy.dir(&scene.path).join("group");
    fs::create_dir(&group).unwrap();
    fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    let error = remove_tree(hierarchy, &hierarchy.dir(&scene.path), 0, Instant::now()).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("{} (", child.id())), "{text}");
}
