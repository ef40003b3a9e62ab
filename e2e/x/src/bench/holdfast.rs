//! An agent of our own.

use std::{
    fs::File,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result};

use super::{restart, table::Figure};
use crate::{
    place::{self, Place},
    run::{command, loud, output},
    work::Work,
};

/// Starts an agent from `program`, runs the client, and stops the agent.
pub fn measure(work: &Work, program: &Path, image: &Path, args: &[String]) -> Result<Vec<Figure>> {
    let place = Place::make(work, "bench")?;
    let outcome = (|| {
        loud(place.command(program, &["image", "import"]).arg(image))?;
        let log = File::create(place.log()).context("create the agent's log")?;
        let mut serve = place.command(program, &["serve"]);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut agent = serve.spawn().context("start the agent")?;
        let figures = place::serves(&mut agent, &place.socket(), &place.log())
            .and_then(|()| super::client(work, &place, agent.id(), &[], args));
        let stopped = stop(&mut agent);
        figures.and_then(|figures| stopped.map(|()| figures))
    })();
    // What went wrong is in the agent's log.
    let cleaned = if outcome.is_ok() { place.remove() } else { Ok(()) };
    outcome.and_then(|figures| cleaned.map(|()| figures))
}

/// SIGTERM: containers would go on, but the client has removed them.
fn stop(agent: &mut Child) -> Result<()> {
    if agent.try_wait().context("wait for the agent")?.is_none() {
        output(&mut command("kill", ["-TERM", &agent.id().to_string()]))?;
    }
    agent.wait().map(drop).context("wait for the agent")
}

/// Restarts an agent with pods, in larger and larger numbers.
pub fn restarts(work: &Work, program: &Path, image: &Path, args: &[String]) -> Result<Vec<Figure>> {
    let place = Place::make(work, "bench")?;
    loud(place.command(program, &["image", "import"]).arg(image))?;
    let daemon = [program.into(), "serve".into(), "--config".into(), place.config().into()];
    let mut figures = Vec::new();
    for pods in restart::PODS {
        let client =
            command("unshare", ["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        figures.extend(restart::measure(work, &place, client, &daemon, pods, args)?);
    }
    // After an error the directories stay: the log says what went wrong.
    place.remove()?;
    Ok(figures)
}
