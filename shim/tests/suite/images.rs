//! Images that are mounted.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::PathBuf;

use holdfast_pod::protocol::FaultKind;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::harness::Shim;
use crate::scene::Scene;
use crate::userns::mapped;

/// Two layers of an image; the upper one takes away what the lower one has.
fn layers(scene: &Scene) -> [PathBuf; 2] {
    let (lower, upper) = (scene.path("image-lower"), scene.path("image-upper"));
    for layer in [&lower, &upper] {
        fs::create_dir_all(layer.join("data")).unwrap();
    }
    fs::write(lower.join("data/kept"), "kept\n").unwrap();
    chown(lower.join("data/kept"), Some(33), Some(34)).unwrap();
    fs::write(lower.join("data/gone"), "").unwrap();
    fs::write(upper.join("data/new"), "new\n").unwrap();
    symlink("/data", lower.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", lower.join("out")).unwrap();
    mknodat(CWD, upper.join("data/gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    mknodat(CWD, lower.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    [lower, upper]
}

fn may_mount(scene: &mut Scene) {
    for set in ["bounding", "permitted", "effective"] {
        scene.process()["capabilities"][set] = serde_json::json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    }
}

fn text(scene: &Scene) -> String {
    scene.lines().join("\n").replace("stdout F ", "")
}

#[test]
fn an_image_shows_as_its_layers_say_and_stays_as_it_is() {
    let script = "ls /image/data; cat /image/data/kept; stat -c %u:%g /image/data/kept
        echo x > /image/data/new; mkdir /image/dir
        mount -o remount,rw,bind /image && echo x > /image/data/kept";
    let Some(mut scene) = Scene::sh(script) else { return };
    let layers = layers(&scene);
    scene.image(&layers, "", "/image", &["noexec"]);
    // Allowed to mount, it can make the mount writable, and is refused by what is mounted.
    may_mount(&mut scene);
    Shim::run(&scene);
    let text = text(&scene);
    assert!(text.starts_with("kept\nnew\nkept\n33:34\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert_eq!(fs::read_to_string(layers[0].join("data/kept")).unwrap(), "kept\n");
}

#[test]
fn a_single_layer_cannot_be_written_to_either() {
    let script =
        "cat /image/data/kept; ls /image; mount -o remount,rw,bind /image; echo x > /image/data/kept";
    let Some(mut scene) = Scene::sh(script) else { return };
    let layers = layers(&scene);
    scene.image(&layers[..1], "", "/image", &[]);
    may_mount(&mut scene);
    Shim::run(&scene);
    let text = text(&scene);
    assert!(text.starts_with("kept\nabsolute\ndata\nfifo\nout\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(fs::read_to_string(layers[0].join("data/kept")).unwrap(), "kept\n");
}

#[test]
fn parts_of_an_image() {
    let Some(mut scene) = Scene::sh("ls /dir; cat /file; ls /link; echo x >> /file") else { return };
    let layers = layers(&scene);
    scene.image(&layers, "data", "/dir", &[]);
    scene.image(&layers[..1], "data/kept", "/file", &[]);
    scene.image(&layers, "absolute", "/link", &[]);
    Shim::run(&scene);
    let text = text(&scene);
    assert!(text.starts_with("kept\nnew\nkept\nkept\nnew\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}

#[test]
fn parts_that_are_refused() {
    for (path, part) in [
        ("data/gone", "open sub path data/gone of image test:1"),
        ("data/kept/x", "open sub path data/kept/x of image test:1"),
        ("out", "open sub path out of image test:1"),
        ("fifo", "neither a directory nor a file"),
    ] {
        let Some(mut scene) = Scene::sh("true") else { return };
        let layers = layers(&scene);
        scene.image(&layers, path, "/image", &[]);
        let failure = Shim::refused(&scene);
        assert_eq!(failure.kind, FaultKind::Invalid, "{failure}");
        assert!(failure.stage.starts_with("ImageVolumeMountFailed: "), "{failure}");
        assert!(failure.to_string().contains(part), "{failure}");
    }
    let Some(mut scene) = Scene::sh("true") else { return };
    let lost = scene.path("lost");
    scene.image(&[lost], "", "/image", &[]);
    assert!(Shim::refused(&scene).to_string().contains("lost is not there"));
}

#[test]
fn in_a_user_namespace_its_files_have_their_owners() {
    let script = "stat -c %u:%g /image/data /image/data/kept /alone/data/kept /part
        ls /image/data; mount -o remount,rw,bind /alone; ! echo x > /alone/data/kept";
    let Some(mut scene) = mapped(script) else { return };
    let layers = layers(&scene);
    scene.image(&layers, "", "/image", &[]);
    scene.image(&layers[..1], "", "/alone", &[]);
    scene.image(&layers, "data/kept", "/part", &[]);
    may_mount(&mut scene);
    let record = Shim::run(&scene);
    let text = text(&scene);
    assert!(text.starts_with("0:0\n33:34\n33:34\n33:34\nkept\nnew\n"), "{text}");
    assert_eq!(record.exit_code, 0, "{text}");
    let kept = fs::metadata(layers[0].join("data/kept")).unwrap();
    assert_eq!((kept.uid(), kept.size()), (33, 5));
}
