//! `cargo x install` and `cargo x uninstall`, with programs that are only files.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use holdfast_x::{
    install::{Layout, Options},
    work::Work,
};
use tempfile::TempDir;

/// A target directory with programs, and the real manifests.
struct Scene {
    dir: TempDir,
    work: Work,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        let scene = Self { work: Work { repo, cache: target.join("x"), target }, dir };
        scene.build("1");
        scene
    }

    /// Makes programs whose content is their name and this word.
    fn build(&self, word: &str) {
        let release = self.work.target.join("release");
        fs::create_dir_all(&release).unwrap();
        for name in ["holdfast", "holdfast-pod", "holdfast-shim"] {
            fs::write(release.join(name), format!("{name} {word}")).unwrap();
        }
    }

    fn destdir(&self) -> PathBuf {
        self.dir.path().join("dest")
    }

    fn layout(&self, prefix: Option<&str>) -> Layout {
        let options = Options { destdir: Some(self.destdir()), prefix: prefix.map(PathBuf::from) };
        Layout::new(&options).unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.destdir().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// All files, as they will be named on the node.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut dirs = vec![self.destdir()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    found.insert(format!("/{}", path.strip_prefix(self.destdir()).unwrap().display()));
                }
            }
        }
        found
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn without_a_prefix_all_is_where_the_readme_says() {
    let scene = Scene::new();
    scene.layout(None).install(&scene.work).unwrap();
    let expected = set(&[
        "/etc/crictl.yaml",
        "/etc/systemd/system/holdfast.service",
        "/usr/libexec/holdfast/holdfast-pod",
        "/usr/libexec/holdfast/holdfast-shim",
        "/usr/local/bin/holdfast",
        "/usr/local/share/holdfast/cni/10-holdfast.conflist",
        "/usr/local/share/holdfast/config.toml",
        "/usr/local/share/holdfast/crictl.yaml",
        "/usr/local/share/holdfast/holdfast.socket",
        "/usr/local/share/holdfast/kubelet.yaml",
        "/usr/local/share/holdfast/runtimeclass.yaml",
    ]);
    assert_eq!(scene.files(), expected);
    let mode = |path: &str| fs::metadata(scene.destdir().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("usr/local/bin/holdfast"), 0o755);
    assert_eq!(mode("usr/libexec/holdfast/holdfast-shim"), 0o755);
    assert_eq!(mode("etc/systemd/system/holdfast.service"), 0o644);
    assert_eq!(scene.read("usr/libexec/holdfast/holdfast-pod"), "holdfast-pod 1");
    let unit = scene.read("etc/systemd/system/holdfast.service");
    assert_eq!(unit, fs::read_to_string(scene.work.repo.join("manifests/holdfast.service")).unwrap());
}

#[test]
fn every_manifest_is_installed() {
    let scene = Scene::new();
    scene.layout(Some("/p")).install(&scene.work).unwrap();
    let mut missing = Vec::new();
    let manifests = scene.work.repo.join("manifests");
    let mut dirs = vec![manifests.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.strip_prefix(&manifests).unwrap().to_owned();
            // The unit has a place of its own, the demo's image is nowhere but in a clone, and kind's nodes are images.
            let elsewhere =
                ["holdfast.service", "demo-pod.yaml"].iter().any(|other| name == Path::new(other))
                    || name.starts_with("kind");
            if !elsewhere && !scene.destdir().join("p/share/holdfast").join(&name).exists() {
                missing.push(name);
            }
        }
    }
    assert_eq!(missing, Vec::<PathBuf>::new());
}

#[test]
fn the_unit_starts_the_program_of_its_prefix() {
    let scene = Scene::new();
    let layout = scene.layout(Some("/opt/x"));
    layout.install(&scene.work).unwrap();
    assert_eq!(layout.program(), scene.destdir().join("opt/x/bin/holdfast"));
    assert_eq!(scene.read("opt/x/libexec/holdfast/holdfast-shim"), "holdfast-shim 1");
    let unit = scene.read("etc/systemd/system/holdfast.service");
    assert!(unit.contains("\nExecStart=/opt/x/bin/holdfast serve\n"), "{unit}");
    assert!(scene.files().iter().all(|file| file.starts_with("/opt/x/") || file.starts_with("/etc/")));
}

#[test]
fn a_distribution_s_unit_is_not_in_etc() {
    let scene = Scene::new();
    scene.layout(Some("/usr")).install(&scene.work).unwrap();
    assert!(
        scene.read("usr/lib/systemd/system/holdfast.service").contains("ExecStart=/usr/bin/holdfast serve")
    );
    assert!(!scene.files().contains("/etc/systemd/system/holdfast.service"));
}

#[test]
fn a_program_is_replaced_and_not_written_to() {
    let scene = Scene::new();
    scene.layout(None).install(&scene.work).unwrap();
    let path = scene.destdir().join("usr/local/bin/holdfast");
    let mut running = fs::File::open(&path).unwrap();
    let before = running.metadata().unwrap().ino();
    scene.build("2");
    scene.layout(None).install(&scene.work).unwrap();
    let mut text = String::new();
    running.read_to_string(&mut text).unwrap();
    assert_eq!(text, "holdfast 1");
    assert_eq!(scene.read("usr/local/bin/holdfast"), "holdfast 2");
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
    assert!(!scene.files().iter().any(|file| file.contains("tmp")), "{:?}", scene.files());
}

#[test]
fn what_an_operator_has_in_etc_stays() {
    let scene = Scene::new();
    fs::create_dir_all(scene.destdir().join("etc/systemd/system")).unwrap();
    let (crictl, unit) = ("etc/crictl.yaml", "etc/systemd/system/holdfast.service");
    fs::write(scene.destdir().join(crictl), "theirs").unwrap();
    let lines = scene.layout(None).install(&scene.work).unwrap();
    assert_eq!(scene.read(crictl), "theirs");
    assert!(scene.read(&format!("{crictl}.new")).contains("runtime-endpoint"));
    assert!(
        lines.iter().any(|line| line.contains("crictl.yaml kept") && line.contains("crictl.yaml.new")),
        "{lines:?}"
    );
    // A second time: what is ours already is left alone.
    let lines = scene.layout(None).install(&scene.work).unwrap();
    assert!(lines.iter().any(|line| line.ends_with("holdfast.service (unchanged)")), "{lines:?}");
    assert!(!scene.files().contains(&format!("/{unit}.new")));
}

#[test]
fn uninstall_takes_all_of_it_but_what_was_changed() {
    let scene = Scene::new();
    let layout = scene.layout(Some("/opt/x"));
    layout.install(&scene.work).unwrap();
    fs::write(scene.destdir().join("etc/crictl.yaml"), "changed").unwrap();
    layout.install(&scene.work).unwrap();
    let lines = layout.uninstall(&scene.work).unwrap();
    assert_eq!(scene.files(), set(&["/etc/crictl.yaml"]));
    assert!(lines.iter().any(|line| line.contains("crictl.yaml kept")), "{lines:?}");
    assert!(!scene.destdir().join("opt/x/libexec/holdfast").exists());
    assert!(!scene.destdir().join("opt/x/share/holdfast").exists());
    // Nothing there: nothing to say, and no failure.
    assert_eq!(layout.uninstall(&scene.work).unwrap().len(), 1);
}

#[test]
fn a_service_that_is_enabled_is_not_pulled_away() {
    let scene = Scene::new();
    let layout = scene.layout(None);
    layout.install(&scene.work).unwrap();
    let wants = scene.destdir().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink("../holdfast.service", wants.join("holdfast.service")).unwrap();
    let error = layout.uninstall(&scene.work).unwrap_err().to_string();
    assert!(error.contains("systemctl disable --now holdfast"), "{error}");
    assert!(scene.files().contains("/usr/local/bin/holdfast"));
}

#[test]
fn a_prefix_that_a_unit_cannot_hold_is_refused() {
    for prefix in ["opt/x", "/opt/a b", "/opt/%n", "/opt/../x", "/opt/$HOME", "/opt/\"x"] {
        let options = Options { destdir: None, prefix: Some(prefix.into()) };
        let error = Layout::new(&options).unwrap_err().to_string();
        assert!(error.contains(prefix) && error.contains("absolute path"), "{error}");
    }
}

/// A program that was not built is an error that names it, and no half of an installation is called done.
#[test]
fn a_program_that_is_missing_is_named() {
    let scene = Scene::new();
    fs::remove_file(scene.work.target.join("release/holdfast-shim")).unwrap();
    let error = format!("{:#}", scene.layout(None).install(&scene.work).unwrap_err());
    assert!(error.contains("holdfast-shim"), "{error}");
    assert!(!scene.files().contains("/usr/local/bin/holdfast"));
}
