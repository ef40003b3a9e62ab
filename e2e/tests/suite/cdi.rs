//! CDI devices: spec files in folders of the agent's own, and what containers see of them.

use std::fs;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{pod, sleeper, with_user_namespace},
};
use serde_json::{Value, json};

/// Writes a spec file into the first or the second folder.
fn write(scene: &mut Scene, folder: usize, name: &str, text: &str) -> Result<()> {
    let folder = &scene.agent()?.settings.cdi_spec_dirs()[folder];
    fs::create_dir_all(folder).context("make a folder of specs")?;
    fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
}

/// A sleeper that asks for devices.
fn asking(name: &str, devices: &[&str]) -> Value {
    let mut container = sleeper(name, BUSYBOX);
    let named = |device: &&str| json!({"name": device});
    container["CDI_devices"] = devices.iter().map(named).collect();
    container
}

/// The spec of a device with all that shows inside, and a second one that adds to it.
fn gadget(scene: &Scene) -> Result<String> {
    let text = format!(
        "cdiVersion: 0.7.0\nkind: vendor.test/gadget\ncontainerEdits: {{env: [GADGETS=yes]}}\ndevices:\n- name: zero\n  \
         containerEdits:\n    env: [GADGET=zero]\n    deviceNodes:\n    - {{path: /dev/gadgets/zero, hostPath: /dev/zero, \
         permissions: rw, fileMode: 0640, gid: 4242}}\n    - {{path: /dev/gadgets/log, hostPath: {dir}/log, permissions: w}}\n    \
         mounts:\n    - {{hostPath: {dir}/gadget.txt, containerPath: \
         /gadget.txt, options: [ro, bind]}}\n    additionalGids: [4242]\n    hooks:\n    - {{hookName: \
         createContainer, path: /bin/sh, args: [sh, -c, 'echo $WHO > rootfs/of-the-hook'], env: [WHO=gadget]}}\n- name: two\n  containerEdits: {{env: [SECOND=two]}}\n",
        dir = scene.dir.display()
    );
    fs::write(scene.dir.join("gadget.txt"), "of the driver\n")?;
    process::stdout("mknod", [&*scene.dir.join("log").to_string_lossy(), "c", "1", "11"])?;
    Ok(text)
}

#[test]
fn a_device_s_edits_show_inside() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let text = gadget(&scene)?;
    write(&mut scene, 0, "gadget.yaml", &text)?;
    let pod = pod(&scene.dir, "gadgets");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = asking("main", &["vendor.test/gadget=zero"]);
    // As device plugins asked before there was a field for it.
    container["annotations"] =
        json!({"cdi.k8s.io/vendor_1": "vendor.test/gadget=two,vendor.test/gadget=zero"});
    let id = scene.start(&pod_id, &pod, &container)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    ensure!(shell("echo $GADGETS $GADGET $SECOND")? == "yes zero two");
    ensure!(
        shell("stat -c '%F %t:%T %a %u:%g' /dev/gadgets/zero")? == "character special file 1:5 640 0:4242"
    );
    ensure!(shell("head -c 3 /dev/gadgets/zero | wc -c")? == "3");
    // The kernel's log is no device that containers may use, whoever makes a node of it.
    ensure!(shell(": > /dev/gadgets/log && echo open")? == "open");
    let other = scene.start(&pod_id, &pod, &sleeper("other", BUSYBOX))?;
    let said = scene.crictl.ok(&[
        "exec",
        "-s",
        &other,
        "sh",
        "-c",
        "mknod /log c 1 11; (exec 2>&1; : > /log); true",
    ])?;
    ensure!(said.contains("Operation not permitted"), "{said}");
    ensure!(shell("cat /gadget.txt; ! touch /gadget.txt 2>/dev/null")? == "of the driver");
    // It ran beside the root, before the command.
    ensure!(shell("cat /of-the-hook")? == "gadget");
    ensure!(shell("id -G")?.split(' ').any(|group| group == "4242"), "{}", shell("id -G")?);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn in_a_user_namespace() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let text = gadget(&scene)?;
    write(&mut scene, 1, "gadget.yaml", &text)?;
    let mut pod = pod(&scene.dir, "mapped");
    with_user_namespace(&mut pod, 1_310_720);
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &asking("main", &["vendor.test/gadget=zero"]))?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    ensure!(
        shell("stat -c '%t:%T %u:%g' /dev/gadgets/zero; stat -c %u:%g /gadget.txt")? == "1:5 0:4242\n0:0"
    );
    ensure!(
        shell("head -c 3 /dev/gadgets/zero | wc -c; cat /gadget.txt /of-the-hook")?
            == "3\nof the driver\ngadget"
    );
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The later folder wins, two files of one folder do not agree, and what nobody knows is refused with the folders.
#[test]
fn precedence_and_refusals() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let spec = |device: &str, value: &str| {
        json!({"cdiVersion": "1.0.0", "kind": "vendor.test/part",
            "devices": [{"name": device, "containerEdits": {"env": [format!("PART={value}")]}}]})
        .to_string()
    };
    write(&mut scene, 0, "a.json", &spec("a", "static"))?;
    write(&mut scene, 1, "a.json", &spec("a", "dynamic"))?;
    for name in ["b1.json", "b2.json"] {
        write(&mut scene, 1, name, &spec("b", name))?;
    }
    write(&mut scene, 1, "c.json", &spec("c", "x").replace("\"1.0.0\"", "\"9.0.0\""))?;
    let rdt = spec("d", "x").replace("\"env\"", "\"intelRdt\":{\"closID\":\"x\"},\"env\"");
    write(&mut scene, 0, "d.json", &rdt)?;
    write(&mut scene, 0, "broken.yaml", "kind: [")?;
    let pod = pod(&scene.dir, "parts");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &asking("main", &["vendor.test/part=a"]))?;
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", "echo $PART"])? == "dynamic");
    for (device, code, parts) in [
        ("vendor.test/part=b", "FailedPrecondition", ["cdi-dynamic/b1.json", "cdi-dynamic/b2.json"]),
        ("vendor.test/part=c", "FailedPrecondition", ["cdi-dynamic/c.json", "9.0.0"]),
        ("vendor.test/part=d", "FailedPrecondition", ["intelRdt", "not supported"]),
        ("vendor.test/part=nobody", "InvalidArgument", ["vendor.test/part=nobody", "cdi-static"]),
        ("part", "InvalidArgument", ["CDI_devices[0].name", "vendor.com/class=name"]),
    ] {
        let (container, pod_file) = scene.create_files(&pod, &asking("refused", &[device]))?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &container, &pod_file])?;
        ensure!(refusal.code == code, "{device}: {refusal:?}");
        ensure!(parts.iter().all(|part| refusal.text.contains(part)), "{device}: {refusal:?}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
