//! A container that sees other processes of its pod finds nothing of the host behind them.

use std::fs;

use anyhow::{Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::BUSYBOX,
    specs::{PID_POD, pod, sleeper},
};
use serde_json::json;

#[test]
fn nothing_of_the_host_behind_the_holder() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let canary = scene.dir.join("canary");
    fs::write(&canary, "of the host")?;
    let mut pod = pod(&scene.dir, "escape");
    pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
    let pod_id = scene.run_pod(&pod)?;
    let mut container = sleeper("main", BUSYBOX);
    let context = &mut container["linux"]["security_context"];
    context["namespace_options"]["pid"] = PID_POD.into();
    context["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE", "DAC_READ_SEARCH"]});
    let id = scene.start(&pod_id, &pod, &container)?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);

    // The capability is really there, so that a refusal is the holder's doing.
    let own = shell("grep CapEff /proc/self/status")?;
    let mask = u64::from_str_radix(own.rsplit('\t').next().unwrap_or_default(), 16)?;
    ensure!(mask & (1 << 19) != 0, "no SYS_PTRACE: {own}");

    let path = canary.display();
    let found = shell(&format!(
        "for p in /proc/[0-9]*; do for l in root cwd fd/*; do cat $p/$l{path} 2>/dev/null; done; done; true"
    ))?;
    ensure!(!found.contains("of the host"), "the canary was read: {found}");
    shell("for l in root cwd; do echo x > /proc/1/$l/var/tmp/hf-escaped; done 2>/dev/null; true")?;
    ensure!(!std::path::Path::new("/var/tmp/hf-escaped").exists(), "a file was written to the host");
    // Whatever can be listed there is the root with the pod's shm and the empty place of the containers' roots.
    let listed = shell("ls -A /proc/1/root/ /proc/1/cwd/ 2>/dev/null; true")?;
    for word in listed.split_whitespace().filter(|word| !word.ends_with(':')) {
        ensure!(["dev", "root"].contains(&word), "{word} behind the holder: {listed}");
    }
    let listed = shell("ls -A /proc/1/root/root /proc/1/root/dev 2>/dev/null; true")?;
    for word in listed.split_whitespace().filter(|word| !word.ends_with(':')) {
        ensure!(word == "shm", "{word} behind the holder: {listed}");
    }
    let descriptors = shell("ls /proc/1/fd 2>/dev/null; true")?;
    ensure!(descriptors.is_empty(), "the holder's descriptors: {descriptors}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// No descriptor of ours comes into a container, at its start or with an exec.
#[test]
fn no_descriptor_leaks() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "descriptors");
    let pod_id = scene.run_pod(&pod)?;
    let script = "ls -l /proc/1/fd; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    let container = holdfast_e2e::specs::container("main", BUSYBOX, &["sh", "-c", script]);
    let id = scene.start(&pod_id, &pod, &container)?;
    let listed =
        scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", "ls /proc/1/fd; echo; ls /proc/self/fd"])?;
    let (first, own) = listed.split_once("\n\n").unwrap_or((&listed, ""));
    // The shell keeps a copy of its script's descriptor above 9.
    ensure!(first.lines().all(|fd| fd.parse().is_ok_and(|fd: u32| fd <= 2 || fd == 10)), "{listed}");
    ensure!(own.lines().all(|fd| fd.parse().is_ok_and(|fd: u32| fd <= 3)), "{listed}");
    for directory in 3..12 {
        let mut container = holdfast_e2e::specs::container(&format!("cwd-{directory}"), BUSYBOX, &["pwd"]);
        container["working_dir"] = format!("/proc/self/fd/{directory}").into();
        // Refused by create or by start, or an ordinary folder of the image: never a folder of the host.
        let (file, pod_file) = scene.create_files(&pod, &container)?;
        let output = scene.crictl.call(&["create", &pod_id, &file, &pod_file])?;
        if output.status.success() {
            let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let started = scene.crictl.call(&["start", &id])?;
            ensure!(!started.status.success(), "a container runs in /proc/self/fd/{directory}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
