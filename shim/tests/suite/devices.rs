//! Device nodes: in the container's /dev, and elsewhere.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde_json::{Value, json};

use crate::harness::Shim;
use crate::scene::Scene;
use crate::userns::mapped;

fn node(path: &str, mode: u32, id: u32) -> Value {
    json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": mode, "uid": id, "gid": id})
}

/// The shim gets a umask from whoever starts the tests, the agent from its unit: 0022 as a rule.
#[test]
fn nodes_have_the_modes_that_they_were_given() {
    let script = "
        cd /dev; stat -c '%a %u:%g %n' null zero full random urandom tty open many/shut
        stat -c '%a %u:%g %n' /elsewhere/open /work/shut
        for n in null open /elsewhere/open; do echo x > $n && echo written; done
        test -c /proc/keys; stat -c %a /proc/keys
        stat -c %a /dev /dev/many /elsewhere
    ";
    let Some(mut scene) = Scene::sh(script) else { return };
    scene.process()["user"] = json!({"uid": 1000, "gid": 1000});
    scene.spec["linux"]["devices"] = json!([
        node("/dev/open", 0o666, 0),
        node("/dev/many/shut", 0o660, 7),
        node("/elsewhere/open", 0o666, 0),
        node("/work/shut", 0o660, 7),
    ]);
    let expected = "666 0:0 null\n666 0:0 zero\n666 0:0 full\n666 0:0 random\n666 0:0 urandom\n666 0:0 tty\n\
        666 0:0 open\n660 7:7 many/shut\n666 0:0 /elsewhere/open\n660 7:7 /work/shut\n\
        written\nwritten\nwritten\n666\n755\n755\n755";
    assert_eq!(Shim::run_for_output(&scene), expected);
}

#[test]
fn a_node_that_is_there_stays_what_it_is() {
    let Some(mut scene) = Scene::sh("stat -c '%F %a' /work/node; cat /work/node") else { return };
    fs::write(scene.path("lower/work/node"), "of the image\n").unwrap();
    scene.spec["linux"]["devices"] = json!([node("/work/node", 0o600, 0)]);
    assert_eq!(Shim::run_for_output(&scene), "regular file 644\nof the image");
}

/// A user namespace may make no nodes: they are bound.
#[test]
fn nodes_of_a_user_namespace_are_wherever_they_are_wanted() {
    let script = "
        stat -c '%F %t:%T %a %u:%g' /dev/inside /elsewhere/deep/open /data/shut
        for n in /dev/inside /elsewhere/deep/open; do echo x > $n && echo written; done
    ";
    let Some(mut scene) = mapped(script) else { return };
    let data = scene.path("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(200_000), Some(200_000)).unwrap();
    scene.bind(&data, "/data", &[]);
    scene.spec["linux"]["devices"] = json!([
        node("/dev/inside", 0o666, 0),
        node("/elsewhere/deep/open", 0o666, 1000),
        node("/data/shut", 0o640, 7),
    ]);
    let special = "character special file 1:3";
    let expected = format!("{special} 666 0:0\n{special} 666 1000:1000\n{special} 640 7:7\nwritten\nwritten");
    assert_eq!(Shim::run_for_output(&scene), expected);
    // Nothing but a place for it is in the volume.
    let place = fs::symlink_metadata(data.join("shut")).unwrap();
    assert!(place.file_type().is_file() && place.uid() == 200_000 && !place.file_type().is_char_device());
}

#[test]
fn a_device_in_the_place_of_a_directory_is_refused() {
    for scene in [Scene::sh("true"), mapped("true")] {
        let Some(mut scene) = scene else { return };
        scene.spec["linux"]["devices"] = json!([node("/work/..", 0o666, 0)]);
        let failure = Shim::refused(&scene);
        assert!(failure.text.contains("choose another path"), "{failure}");
    }
}
