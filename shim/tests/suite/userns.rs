//! Pods with a user namespace of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use holdfast_pod::launch::UserRequest;
use holdfast_pod::protocol::Request;
use holdfast_sys::ns;
use serde_json::json;

use crate::harness::{Shim, holder, request, user_map};
use crate::scene::Scene;

pub fn mapped(script: &str) -> Option<Scene> {
    let mut scene = Scene::sh(script)?;
    scene.map = user_map();
    scene.join |= ns::NEWUSER;
    for name in ["upper", "work"] {
        std::os::unix::fs::chown(scene.path(name), Some(200_000), Some(200_000)).unwrap();
    }
    Some(scene)
}

#[test]
fn its_root_is_nobody_outside_and_owns_its_files_inside() {
    let script = "
        set -e
        id -u; stat -c %u:%g /etc/passwd /bin /dev /dev/null /proc/1
        touch /made; echo changed >> /etc/passwd; chmod 600 /etc/group
        head -c 2 /dev/zero | wc -c; echo x > /dev/null
        echo y > /dev/shm/y; test -d /dev/mqueue; ls /sys/class/net
        cat /proc/self/uid_map | tr -s ' '
        ! mknod /tmp/n c 1 3 2>/dev/null
        test -c /proc/keys; test -z \"$(ls /sys/firmware)\"
        hostname; ls /sys/fs/cgroup >/dev/null
    ";
    let Some(scene) = mapped(script) else { return };
    let record = Shim::run(&scene);
    let text = scene.lines().join("\n");
    assert_eq!(record.exit_code, 0, "{text}");
    let expected = "0\n0:0\n0:0\n0:0\n0:0\n0:0\n2\nlo\n 0 200000 65536\npodhost";
    assert_eq!(text.replace("stdout F ", ""), expected);
    let made = fs::metadata(scene.path("upper/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (200_000, 200_000));
    let copied = fs::metadata(scene.path("upper/etc/passwd")).unwrap();
    assert_eq!(copied.uid(), 200_000);
    // The layer itself is untouched.
    let layer = fs::metadata(scene.path("lower/etc/passwd")).unwrap();
    assert_eq!(layer.uid(), 0);
}

#[test]
fn volumes_are_id_mapped_and_users_are_looked_up() {
    let Some(mut scene) =
        mapped("id -u; stat -c %u /data/theirs; echo mine > /data/mine; echo > /dev/stdout")
    else {
        return;
    };
    let data = scene.path("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(1000), Some(1000)).unwrap();
    fs::write(data.join("theirs"), "").unwrap();
    std::os::unix::fs::chown(data.join("theirs"), Some(1000), Some(1000)).unwrap();
    let mapping = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    scene.mount(json!({
        "destination": "/data", "type": "bind", "source": data, "options": ["rbind"],
        "uidMappings": mapping, "gidMappings": mapping,
    }));
    scene.user = UserRequest { user: "bob".into(), ..UserRequest::default() };
    let record = Shim::run(&scene);
    let text = scene.lines().join("\n").replace("stdout F ", "");
    assert_eq!((record.exit_code, text.as_str()), (0, "1000\n1000\n"), "{text}");
    // On disk it is as if no namespace had been there.
    assert_eq!(fs::metadata(data.join("mine")).unwrap().uid(), 1000);
}

#[test]
fn an_exec_joins_it() {
    let Some(scene) = mapped("sleep 1000") else { return };
    let mut shim = Shim::started(&scene);
    let (output, code) = shim.output(
        1,
        &crate::scene::process(&[
            "sh",
            "-c",
            "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/stdout; touch /tmp/a",
        ]),
    );
    assert_eq!((output.as_str(), code), ("0\n 0 200000 65536\nx\n", 0));
    shim.agent.ok(Request::Kill);
    shim.agent.exited();
    shim.gone(&scene);
}

#[test]
fn on_the_hosts_network_sysfs_is_the_hosts() {
    let Some(mut scene) = mapped("ls /sys/class/net > /tmp/n; test -s /tmp/n; ! touch /sys/x 2>/dev/null")
    else {
        return;
    };
    scene.join &= !ns::NEWNET;
    let (mut shim, _) = Shim::created_with(&scene, request(&scene), holder(&scene, false, false), &[]);
    shim.agent.start();
    assert_eq!(shim.agent.exited().exit_code, 0, "{:?}", scene.lines());
    shim.gone(&scene);
}
