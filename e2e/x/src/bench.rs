//! `cargo x bench`: an agent of its own and the benchmark client against it.

use std::{
    fs::File,
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt, build, host, images,
    place::Place,
    run::{command, loud, output, step},
    work::Work,
};

/// Builds, starts an agent, and prints the client's table.
pub fn bench(work: &Work, args: &[String]) -> Result<()> {
    host::check(host::DEMO, &apt::missing(apt::TESTS))?;
    apt::install(work, apt::TESTS)?;
    build::programs(work)?;
    step("building the benchmark client (release)", || {
        build::cargo(work, &["build", "--release", "--quiet", "-p", "holdfast-bench"])
    })?;
    let image = images::bench(work)?;
    let place = Place::make(work, "bench")?;
    let outcome = (|| {
        loud(place.command(work, &["image", "import"]).arg(&image))?;
        let mut agent = start(work, &place)?;
        let measured = measure(work, &place, agent.id(), args);
        let stopped = stop(&mut agent);
        measured.and(stopped)
    })();
    let cleaned = place.remove();
    outcome.and(cleaned)
}

fn start(work: &Work, place: &Place) -> Result<Child> {
    let log = File::create(place.log()).context("create the agent's log")?;
    let mut serve = place.command(work, &["serve"]);
    let mut agent =
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start the agent")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(place.socket()).is_err() {
        if agent.try_wait().context("wait for the agent")?.is_some() || Instant::now() > deadline {
            let _ = agent.kill();
            let text = std::fs::read_to_string(place.log()).unwrap_or_default();
            bail!("the agent does not serve:\n{text}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(agent)
}

/// In the agent's network namespace, where sessions are served on loopback.
fn measure(work: &Work, place: &Place, agent: u32, args: &[String]) -> Result<()> {
    let endpoint = format!("unix://{}", place.socket().display());
    let mut client = command("nsenter", ["--target", &agent.to_string(), "--net", "--"]);
    client.args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(work.release("holdfast-bench"));
    loud(client.args(["--endpoint", &endpoint, "--image", images::BENCH]).args(args))
}

/// SIGTERM: containers would go on, but the client has removed them.
fn stop(agent: &mut Child) -> Result<()> {
    output(&mut command("kill", ["-TERM", &agent.id().to_string()]))?;
    agent.wait().map(drop).context("wait for the agent")
}
