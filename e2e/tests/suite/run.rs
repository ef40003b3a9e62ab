//! `holdfast run`: one pod without a cluster, through an agent and without one.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Agent, Scene, process, process::Process, scene::BUSYBOX, wait};
use nix::sys::signal::Signal;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: run\nspec:\n  restartPolicy: Never\n  containers:\n";

/// A manifest with one container of busybox that runs a script; `more` goes below `spec`.
fn manifest(scene: &Scene, script: &str, more: &str) -> Result<PathBuf> {
    let container = format!("  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, {script:?}]\n");
    write(scene, &format!("{POD}{container}{more}"))
}

fn write(scene: &Scene, text: &str) -> Result<PathBuf> {
    let path = scene.dir.join("pod.yaml");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn run(agent: &Agent, manifest: &std::path::Path) -> Result<Output> {
    process::run(&mut command(agent, manifest))
}

fn command(agent: &Agent, manifest: &std::path::Path) -> Command {
    let mut command = agent.command(&["run"]);
    command.arg(manifest);
    command
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_greeting_through_an_agent_and_without_one() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let greeter = format!("{POD}  - name: greeter\n    image: holdfast.test/greeter:1\n");
    let path = write(&scene, &greeter)?;
    scene.crictl.ok(&["pull", "holdfast.test/greeter:1"])?;
    let output = run(scene.agent()?, &path)?;
    ensure!(
        output.status.success() && both(&output).contains("Hello from the pod run!"),
        "{}",
        both(&output)
    );
    scene.agent()?.stop()?;
    let output = run(scene.agent()?, &path)?;
    ensure!(
        output.status.success() && both(&output).contains("Hello from the pod run!"),
        "{}",
        both(&output)
    );
    scene.agent()?.start_again()?;
    scene.crictl.ok(&["rmi", "holdfast.test/greeter:1"])?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// An agent that is stopped comes back to its pods: no run adopts them meanwhile.
#[test]
fn pods_of_a_stopped_agent_are_left_to_it() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let path = manifest(&scene, "true", "")?;
    let pod = holdfast_e2e::specs::pod(&scene.dir, "kubelets");
    let pod_id = scene.run_pod(&pod)?;
    let id =
        scene.start(&pod_id, &pod, &holdfast_e2e::specs::sleeper("main", holdfast_e2e::scene::BUSYBOX))?;
    scene.agent()?.stop()?;
    let output = run(scene.agent()?, &path)?;
    let text = both(&output);
    ensure!(output.status.code() == Some(125) && text.contains("1 of its pods"), "{text}");
    scene.agent()?.start_again()?;
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
    let output = run(scene.agent()?, &path)?;
    ensure!(output.status.success(), "{}", both(&output));
    scene.remove_pod(&pod_id)?;
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

#[test]
fn exit_codes() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let path = manifest(&scene, "echo failing; exit 3", "")?;
    let output = run(scene.agent()?, &path)?;
    ensure!(output.status.code() == Some(3) && both(&output).contains("failing"), "{}", both(&output));
    let absent = write(&scene, &format!("{POD}  - name: a\n    image: holdfast.test/absent:1\n"))?;
    let output = run(scene.agent()?, &absent)?;
    ensure!(output.status.code() == Some(125) && both(&output).contains("absent"), "{}", both(&output));
    oracle.nothing_left()
}

#[test]
fn ctrl_c_cleans_up() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let path =
        manifest(&scene, "echo here I am; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done", "")?;
    let log = scene.dir.join("run.log");
    let file = File::create(&log)?;
    let mut run = command(scene.agent()?, &path);
    run.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut running = Process::spawn(&mut run)?;
    wait::until_true("the container's words", || Ok(fs::read_to_string(&log)?.contains("here I am")))?;
    running.signal(Signal::SIGINT)?;
    let status = running.end(wait::LIMIT)?;
    ensure!(status.code() == Some(130), "{status}: {}", fs::read_to_string(&log)?);
    oracle.nothing_left()
}

/// As the Kubernetes documentation has it, in lower case.
#[test]
fn all_capabilities_are_dropped_in_any_case() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let security = "    securityContext:\n      capabilities: {drop: [all], add: [chown]}\n";
    let path = manifest(&scene, "grep Cap /proc/self/status", security)?;
    let output = run(scene.agent()?, &path)?;
    let text = both(&output);
    ensure!(output.status.success() && text.contains("CapBnd:\t0000000000000001"), "{text}");
    oracle.nothing_left()
}

/// A scalar that Kubernetes takes for a truth value or a number is refused with its line and how to write it.
#[test]
fn truth_values_where_a_text_is_wanted() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    for (word, meaning) in [("N", "false"), ("y", "true"), ("on", "true"), ("017", "a number")] {
        let env = format!("    env:\n    - name: {word}\n      value: a\n");
        let path = manifest(&scene, "env", &env)?;
        let output = run(scene.agent()?, &path)?;
        let text = both(&output);
        let says = format!(
            "spec.containers[0].env[0].name: {word} without quotes is {meaning} in YAML 1.1, as Kubernetes reads it: \
             write {word:?} (line 12)"
        );
        ensure!(output.status.code() == Some(125) && text.contains(&says), "{says:?}: {text}");
    }
    Ok(())
}

/// Volumes, environment, resources and users of a manifest are acted upon.
#[test]
fn what_a_manifest_may_say() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    fs::write(scene.dir.join("shared"), "of the host\n")?;
    let text = format!(
        "{POD}  - name: main\n    image: {BUSYBOX}\n    command: [sh]\n    args: [-c, 'echo $A; id -u; cat /host/shared; \
         echo x > /empty/x && cat /empty/x; hostname']\n    env:\n    - name: A\n      value: from the manifest\n    \
         resources:\n      limits:\n        memory: 64Mi\n        cpu: 500m\n    securityContext:\n      runAsUser: 1000\n    \
         volumeMounts:\n    - name: host\n      mountPath: /host\n      readOnly: true\n    - name: empty\n      \
         mountPath: /empty\n  volumes:\n  - name: host\n    hostPath:\n      path: {}\n  - name: empty\n    emptyDir: {{}}\n",
        scene.dir.display()
    );
    fs::set_permissions(&scene.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = write(&scene, &text)?;
    let output = run(scene.agent()?, &path)?;
    let printed = both(&output);
    for word in ["from the manifest", "1000", "of the host", "run"] {
        ensure!(output.status.success() && printed.contains(word), "{word} is not in {printed}");
    }
    oracle.nothing_left()
}

/// A field that is not acted upon is refused by its path, and nothing is started.
#[test]
fn refused_fields() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for (more, path) in [
        ("  topologySpreadConstraints: []\n", "spec.topologySpreadConstraints"),
        ("  noSuchField: 1\n", "spec.noSuchField"),
        ("  volumes:\n  - name: v\n    nfs: {server: a, path: /b}\n", "spec.volumes[0].nfs"),
    ] {
        let file = manifest(&scene, "true", more)?;
        let output = run(scene.agent()?, &file)?;
        ensure!(output.status.code() == Some(125), "{path}: {}: {}", output.status, both(&output));
        ensure!(both(&output).contains(path), "{path} is not in {}", both(&output));
    }
    for (text, word) in [("kind: [", "pod.yaml"), ("apiVersion: v1\nkind: Service\n", "Service")] {
        let file = write(&scene, text)?;
        let output = run(scene.agent()?, &file)?;
        ensure!(
            output.status.code() == Some(125) && both(&output).contains(word),
            "{text}: {}",
            both(&output)
        );
    }
    oracle.nothing_left()
}
