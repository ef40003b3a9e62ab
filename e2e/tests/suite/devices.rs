//! Devices of a request: nodes, directories of them, links to them, and what the cgroup lets a container do with them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

use anyhow::{Result, ensure};
use holdfast_e2e::{
    Scene,
    agent::Settings,
    process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper, with_user_namespace},
    wait,
};
use serde_json::json;

#[test]
fn devices_of_a_request() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    // Nodes of the test's own. /dev/kmsg is one that a container may not use unless it is given; opening it for
    // reading takes a capability, opening it for writing none.
    let dir = scene.dir.join("devices");
    fs::create_dir_all(dir.join("many/deep"))?;
    for (name, minor) in [("kmsg", "11"), ("many/zero", "5"), ("many/deep/full", "7")] {
        let path = dir.join(name).display().to_string();
        process::stdout("mknod", [path.as_str(), "c", "1", minor])?;
        process::stdout("chmod", ["640", &path])?;
    }
    symlink("kmsg", dir.join("link"))?;
    let pod = pod(&scene.dir, "devices");
    let pod_id = scene.run_pod(&pod)?;
    let host = |name: &str| dir.join(name).display().to_string();
    let mut given = sleeper("given", BUSYBOX);
    given["devices"] = json!([
        {"container_path": "/dev/log-of-the-kernel", "host_path": host("kmsg"), "permissions": "w"},
        {"container_path": "/dev/a/linked", "host_path": host("link"), "permissions": "w"},
        {"container_path": "/dev/many", "host_path": host("many"), "permissions": "rwm"},
        {"container_path": "/dev/matching", "host_path": host("many/z*"), "permissions": "r"},
    ]);
    let id = scene.start(&pod_id, &pod, &given)?;
    let shell = |script: &str| scene.shell(&id, script);
    let nodes = "/dev/log-of-the-kernel /dev/a/linked /dev/many/zero /dev/many/deep/full /dev/matching/zero";
    ensure!(
        shell(&format!("stat -c '%F %t:%T %a' {nodes}"))?
            == "character special file 1:b 640\ncharacter special file 1:b 640\ncharacter special file 1:5 640\n\
                character special file 1:7 640\ncharacter special file 1:5 640"
    );
    ensure!(
        shell(": > /dev/log-of-the-kernel && : > /dev/a/linked && head -c 3 /dev/many/zero | wc -c")? == "3"
    );
    let refused = |id: &str, script: &str| -> Result<()> {
        let found = scene.shell(id, &format!("({script}) 2>&1 || echo refused"))?;
        ensure!(found.contains("not permitted") && found.ends_with("refused"), "{script}: {found}");
        Ok(())
    };
    refused(&id, "head -c 1 /dev/log-of-the-kernel")?;
    let without = scene.start(&pod_id, &pod, &sleeper("without", BUSYBOX))?;
    ensure!(scene.shell(&without, "ls /dev | tr '\\n' ' '")?.split(' ').all(|name| name != "many"));
    // A container may make nodes, but not use what it was not given.
    refused(&without, "mknod /tmp/k c 1 11 && : > /tmp/k")?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// With `device_ownership_from_security_context` a device belongs to the user that the container is told to run as.
#[test]
fn devices_of_another_user() -> Result<()> {
    for on in [false, true] {
        let set = |settings: &mut Settings| {
            settings.runtime = format!("device_ownership_from_security_context = {on}");
        };
        let Some(scene) = Scene::ours_with(set)? else { return Ok(()) };
        let oracle = scene.oracle()?;
        let path = scene.dir.join("zero").display().to_string();
        process::stdout("mknod", [path.as_str(), "c", "1", "5"])?;
        process::stdout("chmod", ["600", &path])?;
        let pod = pod(&scene.dir, "device-owner");
        let pod_id = scene.run_pod(&pod)?;
        let mut container = sleeper("main", BUSYBOX);
        container["devices"] =
            json!([{"container_path": "/dev/given", "host_path": path, "permissions": "rw"}]);
        container["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
        container["linux"]["security_context"]["run_as_group"] = json!({"value": 2000});
        let id = scene.start(&pod_id, &pod, &container)?;
        let found = scene
            .shell(&id, "stat -c %u:%g:%a /dev/given; test -r /dev/given && echo open || echo closed")?;
        ensure!(found == if on { "1000:2000:600\nopen" } else { "0:0:600\nclosed" }, "{on}: {found}");
        scene.remove_pod(&pod_id)?;
        oracle.nothing_left()?;
    }
    Ok(())
}

/// Whatever umask the runtime was started with. A device keeps the mode that it has on the host.
#[test]
fn modes_of_nodes() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let dir = scene.dir.join("modes");
    fs::create_dir_all(&dir)?;
    for (name, mode) in [("open", "666"), ("shut", "660")] {
        let path = dir.join(name).display().to_string();
        process::stdout("mknod", [path.as_str(), "c", "1", "3"])?;
        process::stdout("chmod", [mode, &path])?;
    }
    let pod = pod(&scene.dir, "modes");
    let pod_id = scene.run_pod(&pod)?;
    let mut main = sleeper("main", BUSYBOX);
    main["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
    main["devices"] = json!([
        {"container_path": "/dev/open", "host_path": dir.join("open"), "permissions": "rw"},
        {"container_path": "/dev/many/shut", "host_path": dir.join("shut"), "permissions": "rw"},
        {"container_path": "/elsewhere/open", "host_path": dir.join("open"), "permissions": "rw"},
    ]);
    let id = scene.start(&pod_id, &pod, &main)?;
    let modes = scene.shell(
        &id,
        "cd /dev; stat -c '%a %n' null zero full random urandom tty open many/shut /elsewhere/open",
    )?;
    let expected = "666 null\n666 zero\n666 full\n666 random\n666 urandom\n666 tty\n666 open\n660 many/shut\n666 /elsewhere/open";
    ensure!(modes == expected, "{modes}");
    scene.shell(&id, "for n in /dev/null /dev/open /elsewhere/open; do echo x > $n || exit 1; done")?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// In a pod with a user namespace as well, in /dev and elsewhere.
#[test]
fn nodes_in_a_user_namespace() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "nodes-userns");
    with_user_namespace(&mut pod, 1_310_720);
    let pod_id = scene.run_pod(&pod)?;
    let mut main = sleeper("main", BUSYBOX);
    let device = |path: &str| json!({"container_path": path, "host_path": "/dev/zero", "permissions": "rw"});
    main["devices"] = json!([device("/dev/a/zero"), device("/elsewhere/deep/zero")]);
    let id = scene.start(&pod_id, &pod, &main)?;
    let script =
        "for n in /dev/a/zero /elsewhere/deep/zero; do stat -c '%F %a' $n; head -c 2 $n | wc -c; done";
    let found = scene.shell(&id, script)?;
    ensure!(found == ["character special file 666\n2"; 2].join("\n"), "{found}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Descriptor 0 of who has no stdin is a name of a device node: it has to be one of the container's own.
#[test]
fn stdin_is_not_the_host_s() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let before = fs::metadata("/dev/null")?;
    let pod = pod(&scene.dir, "stdin");
    let pod_id = scene.run_pod(&pod)?;
    let script = "stat -L -c %d:%i /proc/self/fd/0; stat -c %d:%i /dev/null; cat";
    let change = "chmod 600 /proc/self/fd/0; touch /proc/self/fd/0";
    let sleep = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    let main = container("main", BUSYBOX, &["sh", "-c", &format!("{script}; {change}; echo done; {sleep}")]);
    let id = scene.start(&pod_id, &pod, &main)?;
    wait::until_true("the container's word", || Ok(scene.crictl.ok(&["logs", &id])?.ends_with("done")))?;
    let said = scene.crictl.ok(&["logs", &id])?;
    let lines: Vec<_> = said.lines().collect();
    ensure!(lines.len() == 3 && lines[0] == lines[1], "the container's: {said}");
    // runc gives an exec the host's.
    if scene.agent.is_some() {
        let said = scene.shell(&id, script)?;
        ensure!(said.split_once('\n').is_some_and(|(own, null)| own == null), "an exec's: {said}");
        scene.shell(&id, &format!("{change}; chmod 666 /dev/null"))?;
    }
    let after = fs::metadata("/dev/null")?;
    ensure!((after.mode(), after.mtime()) == (before.mode(), before.mtime()), "the host's was changed");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
