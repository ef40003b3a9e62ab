//! The agent as a service: sd_notify(3), socket activation, reload, and what Status says of the node.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    agent::{Agent, Settings},
    place,
    process::Process,
    scene::BUSYBOX,
    specs::{pod, sleeper},
    wait,
};
use nix::sys::signal::Signal;

/// Longest wait for a message of the agent's.
const LIMIT: Duration = Duration::from_secs(20);

/// The end of systemd that is notified.
struct Notified(UnixDatagram);

impl Notified {
    /// Listens in `dir`, and has the agent of these settings notify it.
    fn new(dir: &Path, settings: &mut Settings) -> Result<Self> {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).context("bind the notify socket")?;
        socket.set_read_timeout(Some(LIMIT))?;
        settings.environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        Ok(Self(socket))
    }

    /// The next message that has `line`.
    fn wait_for(&self, line: &str) -> Result<String> {
        let mut message = vec![0; 4096];
        let begin = Instant::now();
        loop {
            ensure!(begin.elapsed() < LIMIT, "no message with {line}");
            let length = self.0.recv(&mut message).with_context(|| format!("wait for {line}"))?;
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|one| one == line) {
                return Ok(text);
            }
        }
    }
}

fn logged(agent: &Agent, words: &[&str]) -> Result<bool> {
    let text = fs::read_to_string(agent.log()).context("read the agent's log")?;
    Ok(text.lines().any(|line| words.iter().all(|word| line.contains(word))))
}

#[test]
fn systemd_is_told_of_start_life_and_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut notified = None;
    let Some(mut scene) = Scene::ours_with(|settings| {
        notified = Notified::new(dir.path(), settings).ok();
        settings.environment.push(("WATCHDOG_USEC".to_owned(), "600000".to_owned()));
    })?
    else {
        return Ok(());
    };
    let notified = notified.context("no notify socket")?;
    notified.wait_for("READY=1")?;
    for _ in 0..3 {
        notified.wait_for("WATCHDOG=1")?;
    }
    let agent = scene.agent()?;
    agent.signal(Signal::SIGHUP)?;
    let reloading = notified.wait_for("RELOADING=1")?;
    ensure!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    notified.wait_for("READY=1")?;
    let ended = agent.stop()?;
    notified.wait_for("STOPPING=1")?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn a_reload_puts_into_force_what_can_change() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let pod = pod(&scene.dir, "reload");
    let pod_id = scene.run_pod(&pod)?;
    let before = scene.start(&pod_id, &pod, &sleeper("before", BUSYBOX))?;
    let limit = "ulimit -n";
    ensure!(scene.shell(&before, limit)?.trim() != "4321", "the limit is there before the reload");

    let agent = scene.agent()?;
    agent.settings.runtime = "default_ulimits = [\"nofile=4321:4321\"]\n[runtime.handlers.later]".to_owned();
    agent.settings.more = "[streaming]\nadvertise = \"localhost\"".to_owned();
    agent.settings.write()?;
    agent.signal(Signal::SIGHUP)?;
    wait::until_true("the reload", || logged(agent, &["configuration reloaded", "streaming.advertise"]))?;

    let after = scene.start(&pod_id, &pod, &sleeper("after", BUSYBOX))?;
    ensure!(scene.shell(&after, limit)?.trim() == "4321", "{}", scene.shell(&after, limit)?);
    let info = scene.crictl.json(&["info"])?;
    let handlers = info["runtimeHandlers"].as_array().context("handlers")?;
    ensure!(handlers.iter().any(|handler| handler["name"] == "later"), "{info}");

    // A mistake is told with its place, and changes nothing.
    let agent = scene.agent()?;
    agent.settings.runtime = "default_ulimits = [\"nofile=1:1\"]\nno_such_key = 1".to_owned();
    agent.settings.write()?;
    agent.signal(Signal::SIGHUP)?;
    wait::until_true("the refusal", || logged(agent, &["reload:", "no_such_key", "config.toml"]))?;
    let third = scene.start(&pod_id, &pod, &sleeper("third", BUSYBOX))?;
    ensure!(scene.shell(&third, limit)?.trim() == "4321", "{}", scene.shell(&third, limit)?);
    scene.remove_pod(&pod_id)
}

#[test]
fn a_reload_changes_the_log_level() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let agent = scene.agent()?;
    // The level of the settings is debug, at which an unknown id is told.
    let refused = |agent: &Agent| agent.crictl().refused(&["inspect", "0123456789"]);
    refused(agent)?;
    wait::until_true("the refusal", || logged(agent, &["DEBUG", "ContainerStatus", "NotFound"]))?;
    let config = fs::read_to_string(agent.settings.config())?;
    fs::write(agent.settings.config(), config.replace("log_level = \"debug\"", "log_level = \"info\""))?;
    agent.signal(Signal::SIGHUP)?;
    wait::until_true("the reload", || logged(agent, &["configuration reloaded"]))?;
    let count =
        |agent: &Agent| -> Result<usize> { Ok(fs::read_to_string(agent.log())?.matches("DEBUG").count()) };
    let before = count(agent)?;
    refused(agent)?;
    ensure!(count(agent)? == before, "debug lines at level info");
    Ok(())
}

/// The service manager listens, and whoever connects before the agent serves is served.
#[test]
fn a_socket_of_the_service_manager_is_served() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let agent = scene.agent()?;
    agent.stop()?;
    let path = agent.settings.socket();
    let listener = UnixListener::bind(&path).context("listen as systemd does")?;
    let early = UnixStream::connect(&path).context("connect before there is an agent")?;
    let start = |listener: &UnixListener| -> Result<Process> {
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&agent.settings.program).arg("serve");
        command.arg("--config").arg(agent.settings.config());
        command.stdin(std::os::fd::OwnedFd::from(listener.try_clone()?));
        let log = fs::File::options().append(true).open(agent.log())?;
        Process::spawn(command.stdout(Stdio::null()).stderr(log))
    };
    let mut process = start(&listener)?;
    wait::until_true("an answer", || Ok(agent.crictl().ok(&["version"]).is_ok()))?;
    drop(early);
    process.signal(Signal::SIGTERM)?;
    ensure!(process.end(wait::LIMIT)?.success(), "{}", agent.last_words());
    ensure!(path.exists(), "the agent has removed a socket that is not its own");

    // Another socket than the configured one is a mistake that names both.
    let elsewhere = UnixListener::bind(agent.settings.dir.join("other.sock"))?;
    let mut process = start(&elsewhere)?;
    let ended = process.end(wait::LIMIT)?;
    ensure!(ended.code() == Some(1) && logged(agent, &["other.sock", "ListenStream="])?, "{ended}");
    Ok(())
}

#[test]
fn the_runtime_is_not_ready_without_what_it_needs() -> Result<()> {
    let copy = |settings: &mut Settings| {
        let shim = settings.dir.join("holdfast-shim");
        fs::copy(place::programs().join("holdfast-shim"), &shim).unwrap();
        settings.more = format!("shim_program = {shim:?}");
    };
    let Some(scene) = Scene::ours_with(copy)? else { return Ok(()) };
    let condition = || -> Result<(bool, String)> {
        let info = scene.crictl.json(&["info"])?;
        let conditions = info["status"]["conditions"].as_array().context("conditions")?;
        let runtime = conditions.iter().find(|condition| condition["type"] == "RuntimeReady");
        let runtime = runtime.context("RuntimeReady")?;
        Ok((runtime["status"] == true, runtime["message"].as_str().unwrap_or_default().to_owned()))
    };
    ensure!(condition()?.0, "{:?}", condition()?);
    let shim = scene.dir.join("holdfast-shim");
    let mode = |mode| fs::set_permissions(&shim, fs::Permissions::from_mode(mode));
    mode(0o644)?;
    wait::until_true("RuntimeReady to become false", || Ok(!condition()?.0))?;
    ensure!(condition()?.1.contains("holdfast-shim"), "{:?}", condition()?);
    mode(0o755)?;
    wait::until_true("RuntimeReady to become true", || Ok(condition()?.0))
}

/// journald may be stopped, or its disk full: whoever reads the agent's log does not decide whether the agent works.
#[test]
fn a_log_that_nobody_reads_stops_nothing() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let pod = pod(&scene.dir, "log");
    let pod_id = scene.run_pod(&pod)?;
    let agent = scene.agent()?;
    agent.stop()?;
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let mut command = agent.command(&["serve"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut process = Process::spawn(&mut command)?;
    drop(command);
    let crictl = agent.crictl();
    wait::until_true("an answer", || Ok(crictl.ok(&["version"]).is_ok()))?;
    // Each is a line of the log, and a pipe takes 64 KiB.
    for number in 0..600 {
        let name = format!("{number:0200}");
        let refused = crictl.refused(&["--timeout", "5s", "inspect", &name])?;
        ensure!(refused.code == "NotFound", "after {number} lines: {}", refused.text);
    }
    let begin = Instant::now();
    scene.crictl.ok(&["version"])?;
    ensure!(begin.elapsed() < Duration::from_secs(2) * place::slowness(), "{:?}", begin.elapsed());
    scene.remove_pod(&pod_id)?;
    process.signal(Signal::SIGTERM)?;
    ensure!(process.end(wait::LIMIT)?.success());
    drop(reader);
    Ok(())
}
