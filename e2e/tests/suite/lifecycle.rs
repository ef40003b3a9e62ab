//! Stop signals, stdin, terminals and working directories: how a container begins, is talked to and ends.

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, place,
    process::{self, Process},
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
    wait,
};
use serde_json::json;

/// The request's signal, else the image's, else SIGTERM; and the status says which.
#[test]
fn stop_signals() -> Result<()> {
    const SIGHUP: u32 = 8;
    const SIGRTMIN: u32 = 35;
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("config:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "signals");
    let pod_id = scene.run_pod(&pod)?;
    let script = "for s in TERM HUP USR1 34; do trap \"echo got $s; exit 0\" $s; done; echo ready; \
                  while :; do sleep 1000 & wait; done";
    for (name, image, signal, got, told) in [
        ("default", BUSYBOX, None, "TERM", "SIGTERM"),
        ("of-the-image", image.as_str(), None, "USR1", "SIGUSR1"),
        ("of-the-request", image.as_str(), Some(SIGHUP), "HUP", "SIGHUP"),
        ("real-time", BUSYBOX, Some(SIGRTMIN), "34", "SIGRTMIN"),
    ] {
        let mut container = container(name, image, &["sh", "-c", script]);
        if let Some(signal) = signal {
            container["stop_signal"] = signal.into();
        }
        let id = scene.start(&pod_id, &pod, &container)?;
        wait::until_true("its traps", || Ok(scene.crictl.ok(&["logs", &id])?.contains("ready")))?;
        let stop_signal = &scene.status(&id)?["stopSignal"];
        ensure!(stop_signal.as_str().is_some_and(|name| name.ends_with(told)), "{name}: {stop_signal}");
        scene.crictl.ok(&["stop", "--timeout", "10", &id])?;
        let log = scene.crictl.ok(&["logs", &id])?;
        ensure!(log.ends_with(&format!("got {got}")), "{name}: {log}");
    }
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// The first process of a pid namespace is deaf to what it does not handle: the grace period is kept, then it is killed
/// with all that it started.
#[test]
fn the_grace_period_is_kept() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "grace");
    let pod_id = scene.run_pod(&pod)?;
    let deaf = container("deaf", BUSYBOX, &["sh", "-c", "sleep 2000 & exec sleep 1000"]);
    for (seconds, name) in [(1, "later"), (0, "at-once")] {
        let mut container = deaf.clone();
        container["metadata"]["name"] = name.into();
        let id = scene.start(&pod_id, &pod, &container)?;
        let begin = Instant::now();
        scene.crictl.ok(&["stop", "--timeout", &seconds.to_string(), &id])?;
        ensure!(begin.elapsed() >= Duration::from_secs(seconds), "killed after {:?}", begin.elapsed());
        let status = scene.status(&id)?;
        ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 137, "{name}: {status}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Without stdin it is empty; with it, it stays open for the next client; with stdin_once it ends with the first one.
#[test]
fn stdin_ends_when_it_should() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "stdin");
    let pod_id = scene.run_pod(&pod)?;
    for (name, stdin, once) in [("none", false, false), ("once", true, true), ("again", true, false)] {
        let mut container =
            container(name, BUSYBOX, &["sh", "-c", "while read line; do echo got $line; done; echo over"]);
        container["stdin"] = stdin.into();
        container["stdin_once"] = once.into();
        let id = scene.start(&pod_id, &pod, &container)?;
        if stdin {
            ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING", "{name}: nobody has come yet");
            say(&scene, &id, "first")?;
        }
        if stdin && !once {
            say(&scene, &id, "second")?;
            ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING", "{name}: it ended");
            ensure!(scene.crictl.ok(&["logs", &id])? == "got first\ngot second");
            continue;
        }
        let status = scene.exited(&id)?;
        ensure!(status["reason"] == "Completed", "{name}: {status}");
        let log = scene.crictl.ok(&["logs", &id])?;
        ensure!(log == if once { "got first\nover" } else { "over" }, "{name}: {log}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Attaches, says one line, waits until the container has it, and leaves: by the end of its stdin, then altogether.
fn say(scene: &Scene, id: &str, line: &str) -> Result<()> {
    let mut command = scene.crictl.command(&["attach", "-i", id]);
    let (read, mut write) = std::io::pipe()?;
    command.stdin(read).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = Process::spawn(&mut command)?;
    command.stdin(Stdio::null());
    write.write_all(format!("{line}\n").as_bytes()).context("write to the client")?;
    wait::until_true("the line in the log", || Ok(scene.crictl.ok(&["logs", id])?.contains(line)))?;
    drop(write);
    client.kill()
}

/// A terminal is the container's three descriptors, and its log has one stream.
#[test]
fn a_terminal_of_the_container_s_own() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "tty");
    let pod_id = scene.run_pod(&pod)?;
    let script = "test -t 0 && test -t 1 && test -t 2 && tty; echo $TERM; echo to stderr >&2";
    for (name, tty) in [("with", true), ("without", false)] {
        let mut container = container(name, BUSYBOX, &["sh", "-c", script]);
        container["tty"] = tty.into();
        let id = scene.start(&pod_id, &pod, &container)?;
        scene.exited(&id)?;
        let log = std::fs::read_to_string(scene.log(&pod, &container))?;
        ensure!(log.contains("/dev/pts/") == tty && log.contains("xterm") == tty, "{name}: {log}");
        ensure!(log.contains(" stderr ") != tty && log.contains("to stderr"), "{name}: {log}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Command and arguments of a request against entrypoint and command of the image, and the directory that they run in.
#[test]
fn commands_and_directories() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let image = scene.registry.image("config:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "commands");
    let pod_id = scene.run_pod(&pod)?;
    // The image's entrypoint is `/bin/sh -c`, its directory /work/here.
    for (name, command, args, directory, said) in [
        ("args", json!([]), json!(["echo args; pwd"]), "", "args\n/work/here"),
        ("command", json!(["pwd"]), json!([]), "", "/work/here"),
        ("both", json!(["echo"]), json!(["a", "b c"]), "", "a b c"),
        ("directory", json!(["pwd"]), json!([]), "/made/by/us", "/made/by/us"),
        ("environment", json!([]), json!(["echo $FROM_IMAGE $ADDED"]), "", "no yes = yes"),
    ] {
        let mut container = container(name, &image, &[]);
        container["command"] = command;
        container["args"] = args;
        container["working_dir"] = directory.into();
        container["envs"] =
            json!([{"key": "FROM_IMAGE", "value": "no"}, {"key": "ADDED", "value": "yes = yes"}]);
        let id = scene.start(&pod_id, &pod, &container)?;
        scene.exited(&id)?;
        let log = scene.crictl.ok(&["logs", &id])?;
        ensure!(log == said, "{name}: {log}");
    }
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// Whoever opens a FIFO that nobody reads waits for ever: it is no log.
#[test]
fn a_fifo_is_no_log() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "fifo");
    let pod_id = scene.run_pod(&pod)?;
    let spec = container("main", BUSYBOX, &["true"]);
    let path = scene.log(&pod, &spec);
    process::stdout("mkfifo", [&path])?;
    let (file, sandbox) = scene.create_files(&pod, &spec)?;
    let begin = Instant::now();
    let refused = scene.crictl.refused(&["create", &pod_id, &file, &sandbox])?;
    ensure!(refused.code == "InvalidArgument" && refused.text.contains("FIFO"), "{refused:?}");
    ensure!(refused.text.contains("main.log"), "{refused:?}");
    ensure!(begin.elapsed() < Duration::from_secs(10) * place::slowness(), "after {:?}", begin.elapsed());
    ensure!(path.exists(), "what is not ours was removed");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A working directory that the user may not enter by himself, as /root of an image that runs as somebody else.
#[test]
fn a_closed_working_directory() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let volume = scene.dir.join("closed");
    std::fs::create_dir(&volume)?;
    std::fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let pod = pod(&scene.dir, "closed");
    let pod_id = scene.run_pod(&pod)?;
    let mut main = sleeper("main", BUSYBOX);
    main["working_dir"] = "/closed".into();
    main["mounts"] = json!([{"container_path": "/closed", "host_path": volume}]);
    let context = &mut main["linux"]["security_context"];
    context["run_as_user"] = json!({"value": 1000});
    context["capabilities"] = json!({"drop_capabilities": ["ALL"]});
    let id = scene.start(&pod_id, &pod, &main)?;
    let script = "readlink /proc/self/cwd; id -u; ls . 2>/dev/null || echo closed";
    ensure!(scene.shell(&id, script)? == "/closed\n1000\nclosed");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A container that has no log path has no log, and its output goes nowhere; the pod's directory is where others are.
#[test]
fn logs_are_where_they_were_asked_for() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "log-paths");
    let pod_id = scene.run_pod(&pod)?;
    let directory = pod["log_directory"].as_str().context("no log directory")?;
    // Neither the pod's directory nor one below it was there.
    let mut container = container("main", BUSYBOX, &["echo", "hello"]);
    container["log_path"] = "deep/0.log".into();
    let id = scene.start(&pod_id, &pod, &container)?;
    let status = scene.exited(&id)?;
    let path = format!("{directory}/deep/0.log");
    ensure!(status["logPath"] == path.as_str(), "{status}");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut File::open(&path)?, &mut log)?;
    ensure!(log.ends_with(" stdout F hello\n"), "{log}");
    for made in [directory, &format!("{directory}/deep")] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(made)?.permissions());
        ensure!(mode & 0o7777 == 0o755, "{made} has mode {mode:o}");
    }
    scene.remove_pod(&pod_id)?;
    ensure!(Path::new(&path).is_file(), "the log went with the pod");
    oracle.nothing_left()
}
