//! What kernels before 6.15 get, on whatever kernel this is. The builder is a fork, which a process with the threads of
//! other tests must not make: each test runs once more in a process of its own.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, mkdirat, mknodat, openat};
use rustix::io::Errno;

use super::*;

const ALONE: &str = "HOLDFAST_TEST_ALONE";

/// Runs the test that asks in a process without other threads; `true`: this is that process.
fn alone(name: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: needs root");
        return false;
    }
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &format!("stage::images::tests::{name}"), "--test-threads=1", "--nocapture"]);
    let output = again.env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{said}");
    false
}

struct Image {
    dir: tempfile::TempDir,
    volume: ImageVolume,
}

/// Two layers: the upper one removes a file of the lower one.
fn image(layers: usize, sub_path: &str) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let lower = dir.path().join("lower");
    let upper = dir.path().join("upper");
    for (layer, file) in [(&lower, "below"), (&upper, "above")] {
        fs::create_dir_all(layer.join("data")).unwrap();
        fs::write(layer.join("data").join(file), file).unwrap();
    }
    fs::write(lower.join("data/gone"), "").unwrap();
    symlink("/data", lower.join("link")).unwrap();
    symlink("../../../../../../etc", lower.join("out")).unwrap();
    let whiteout = upper.join("data/gone");
    mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let layers: Vec<PathBuf> = [lower, upper].into_iter().take(layers).collect();
    let volume = ImageVolume { mount: 0, image: "test:1".into(), layers, sub_path: sub_path.into() };
    Image { dir, volume }
}

fn built(image: &Image) -> Result<OwnedFd> {
    let layers = Rootfs { layers: image.volume.layers.clone(), ..Rootfs::default() };
    with_builder(&layers, None, None, &image.volume, "mount image test:1")
}

fn read(tree: &OwnedFd, path: &str) -> std::result::Result<String, Errno> {
    let mut text = String::new();
    let file = openat(tree, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::File::from(file).read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn the_builder_stacks_layers() {
    if !alone("the_builder_stacks_layers") {
        return;
    }
    let image = image(2, "");
    let tree = built(&image).unwrap();
    assert_eq!(read(&tree, "data/below").as_deref(), Ok("below"));
    assert_eq!(read(&tree, "data/above").as_deref(), Ok("above"));
    assert_eq!(read(&tree, "data/gone"), Err(Errno::NOENT));
    assert_eq!(mkdirat(&tree, "new", Mode::RWXU), Err(Errno::ROFS));
}

#[test]
fn the_builder_takes_one_layer_and_a_part_of_it() {
    if !alone("the_builder_takes_one_layer_and_a_part_of_it") {
        return;
    }
    for (path, file) in [("", "data/below"), ("data", "below"), ("link", "below")] {
        let image = image(1, path);
        let tree = built(&image).unwrap();
        assert_eq!(read(&tree, file).as_deref(), Ok("below"), "{path}");
        // Its super block is what is read-only: nobody can mount it otherwise.
        let change = holdfast_sys::mount::Change { clear: holdfast_sys::mount::RDONLY, ..Default::default() };
        holdfast_sys::mount::set_attributes(&tree, false, change).unwrap();
        assert_eq!(mkdirat(&tree, "new", Mode::RWXU), Err(Errno::ROFS), "{path}");
    }
    let image = image(1, "data/below");
    let file = built(&image).unwrap();
    assert_eq!(kind(&file, "").unwrap(), FileType::RegularFile);
}

#[test]
fn the_builder_names_a_sub_path_that_is_not_there() {
    if !alone("the_builder_names_a_sub_path_that_is_not_there") {
        return;
    }
    // A link out leads to the image's own root, where there is no /etc.
    for path in ["data/gone", "out", "data/below/x"] {
        let failure = built(&image(2, path)).unwrap_err();
        let begin = format!("ImageVolumeMountFailed: open sub path {path} of image test:1");
        assert!(failure.stage == begin, "{failure}");
    }
    let mut nowhere = image(1, "");
    nowhere.volume.layers = vec![Path::new("/no/such/layer").into()];
    let failure = built(&nowhere).unwrap_err();
    assert!(failure.stage.starts_with("mount image test:1: "), "{failure}");
}

/// The work directory of such an overlay holds a mark that no later mount passes.
#[test]
fn a_root_of_an_old_kernel_is_volatile_too() {
    if !alone("a_root_of_an_old_kernel_is_volatile_too") {
        return;
    }
    let image = image(2, "");
    let place = |name: &str| {
        let path = image.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let rootfs = Rootfs { layers: image.volume.layers.clone(), upper: place("changes"), work: place("work") };
    let root = builder::overlay(&rootfs, None, None, None).unwrap();
    mkdirat(&root, "made", Mode::from_raw_mode(0o755)).unwrap();
    drop(root);
    assert!(rootfs.upper.join("made").is_dir());
    assert!(rootfs.work.join("work/incompat/volatile").is_dir());
    assert!(builder::overlay(&rootfs, None, None, None).is_err());
}
