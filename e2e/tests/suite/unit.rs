//! `manifests/holdfast.service` and `holdfast.socket` under a real systemd, so in the machine of `cargo x vm`: start, reload,
//! watchdog, stop and socket activation, with a container that goes on through all of it.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    agent::Settings,
    process,
    scene::BUSYBOX,
    specs::{pod, sleeper},
    wait,
};

const UNITS: &str = "/run/systemd/system";
const NAME: &str = "hfe2e-unit";
/// Seconds of `WatchdogSec=`, for machines that are emulated as well.
const WATCHDOG: u64 = 15;

fn systemctl(args: &[&str]) -> Result<String> {
    process::stdout("systemctl", args)
}

fn path(kind: &str) -> PathBuf {
    Path::new(UNITS).join(format!("{NAME}.{kind}"))
}

/// The two units, stopped and removed when it is dropped.
struct Units;

impl Units {
    /// From the manifests, with the program, the socket and the watchdog of this test. systemd starts what it starts in the
    /// first network namespace; the registry and the bridge are in the test's.
    fn write(settings: &Settings) -> Result<Self> {
        let network = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        let start = format!(
            "ExecStart=/usr/bin/nsenter --net={network} {} serve --config {}",
            settings.program.display(),
            settings.config().display()
        );
        let mut service = include_str!("../../../manifests/holdfast.service")
            .replace("ExecStart=/usr/local/bin/holdfast serve", &start)
            .replace("WatchdogSec=60", &format!("WatchdogSec={WATCHDOG}"));
        ensure!(
            service.contains(&start) && service.contains(&format!("WatchdogSec={WATCHDOG}")),
            "{service}"
        );
        let log = settings.dir.join("agent.log");
        let mut more =
            format!("[Service]\nStandardOutput=append:{0}\nStandardError=append:{0}\n", log.display());
        for (name, value) in &settings.environment {
            writeln!(more, "Environment={name}={value}")?;
        }
        service.push_str(&more);
        let socket = include_str!("../../../manifests/holdfast.socket")
            .replace("/run/holdfast/holdfast.sock", &settings.socket().to_string_lossy());
        fs::write(path("service"), service).context("write the service unit")?;
        fs::write(path("socket"), socket).context("write the socket unit")?;
        let units = Self;
        systemctl(&["daemon-reload"])?;
        Ok(units)
    }
}

/// A property of the service.
fn property(name: &str) -> Result<String> {
    let service = format!("{NAME}.service");
    Ok(systemctl(&["show", "--value", "--property", name, &service])?.trim().to_owned())
}

fn main_pid() -> Result<i32> {
    let pid = property("MainPID")?;
    pid.parse().with_context(|| format!("MainPID is {pid:?}"))
}

impl Drop for Units {
    fn drop(&mut self) {
        let _ = systemctl(&["stop", &format!("{NAME}.socket"), &format!("{NAME}.service")]);
        let _ = fs::remove_file(path("service"));
        let _ = fs::remove_file(path("socket"));
        let _ = systemctl(&["daemon-reload"]);
    }
}

/// A pod with a container that must stay the same process.
struct Survivor {
    pod_id: String,
    id: String,
    pid: u64,
}

impl Survivor {
    fn start(scene: &Scene) -> Result<Self> {
        let pod = pod(&scene.dir, "unit");
        let pod_id = scene.run_pod(&pod)?;
        let id = scene.start(&pod_id, &pod, &sleeper("survivor", BUSYBOX))?;
        let mut survivor = Self { pod_id, id, pid: 0 };
        survivor.pid = survivor.pid_now(scene)?;
        Ok(survivor)
    }

    fn pid_now(&self, scene: &Scene) -> Result<u64> {
        scene.crictl.json(&["inspect", &self.id])?["info"]["pid"].as_u64().context("no pid")
    }

    fn is_well(&self, scene: &Scene) -> Result<()> {
        ensure!(self.pid_now(scene)? == self.pid, "the container is another process");
        ensure!(scene.shell(&self.id, "echo alive")? == "alive");
        Ok(())
    }
}

fn log_has(settings: &Settings, words: &str) -> Result<bool> {
    let text = fs::read(settings.dir.join("agent.log")).context("read the agent's log")?;
    Ok(String::from_utf8_lossy(&text).contains(words))
}

#[test]
fn the_agent_is_a_service_of_systemd() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    if !Path::new("/run/systemd/system").exists() {
        println!("SKIP: systemd is not the first process here");
        return Ok(());
    }
    let agent = scene.agent()?;
    agent.stop()?;
    let settings = agent.settings.clone();
    let units = Units::write(&settings)?;
    let service = format!("{NAME}.service");

    // It is ready when `systemctl start` returns.
    systemctl(&["start", &service])?;
    scene.crictl.ok(&["version"])?;
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let survivor = Survivor::start(&scene)?;

    systemctl(&["reload", &service])?;
    ensure!(log_has(&settings, "configuration reloaded")?, "systemctl reload has returned before the reload");
    survivor.is_well(&scene)?;

    // One that stands still is ended by the watchdog and started again.
    let before = main_pid()?;
    ensure!(before > 1, "no main process");
    process::stdout("systemctl", ["kill", "--kill-whom=main", "--signal=SIGSTOP", &service])?;
    wait::until("a restart by the watchdog", Duration::from_secs(2 * WATCHDOG), || {
        let pid = main_pid()?;
        Ok((pid > 1 && pid != before && scene.crictl.ok(&["version"]).is_ok()).then_some(()))
    })?;
    ensure!(property("NRestarts")? == "1", "{}", property("NRestarts")?);
    survivor.is_well(&scene)?;

    // Containers go on while it is stopped, and over an upgrade.
    systemctl(&["stop", &service])?;
    ensure!(property("Result")? == "success", "{}", property("Result")?);
    ensure!(Path::new(&format!("/proc/{}", survivor.pid)).exists(), "a stop has ended the container");
    let socket = format!("{NAME}.socket");
    systemctl(&["start", &socket])?;
    let inode = fs::metadata(settings.socket())?.ino();
    // The first client starts it.
    survivor.is_well(&scene)?;
    systemctl(&["restart", &service])?;
    survivor.is_well(&scene)?;
    ensure!(fs::metadata(settings.socket())?.ino() == inode, "systemd's socket was replaced");

    scene.remove_pod(&survivor.pod_id)?;
    systemctl(&["stop", &socket, &service])?;
    drop(units);
    Ok(())
}
