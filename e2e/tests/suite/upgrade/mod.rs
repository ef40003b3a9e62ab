//! Upgrades and downgrades in place: an agent takes over the pods of another version's, whose shims and holders go on.
//!
//! `cargo x upgrade` says with HOLDFAST_E2E_OLD where the programs of the other version are. Without, they are a copy of this
//! version's, which tests the way and not the versions; those are told apart by numbers and values in records.

mod fleet;
mod programs;
mod records;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Oracle, Scene, agent::Settings, place, process, scene::own_mounts};

use fleet::Fleet;
use programs::{Programs, Version};

/// The end of an agent, before the next one comes.
#[derive(Debug, Clone, Copy)]
enum End {
    Term,
    Kill,
}

/// There, back, and there again, by SIGTERM and by SIGKILL. Whoever is the agent makes something for the others to take over.
#[test]
fn there_and_back() -> Result<()> {
    own_mounts()?;
    // /run/netns is a mount point from the first pin on, and stays one.
    process::stdout("ip", ["netns", "add", "hfe2eupgrade"])?;
    process::stdout("ip", ["netns", "del", "hfe2eupgrade"])?;
    let scene = Scene::ours_with(|settings| {
        settings.program = Programs::of(&settings.dir).holdfast();
        settings.cni_bin_dirs = vec![settings.dir.join("plugins")];
        let installed = Programs::of(&settings.dir).install(Version::New);
        installed.unwrap_or_else(|error| panic!("install this version's programs: {error:#}"));
    })?;
    let Some(mut scene) = scene else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    // Nothing runs yet: what is on disk alone.
    replace(&mut scene, Version::Old, End::Term)?;
    let mut fleet = Fleet::new(&scene)?;
    fleet.grow(&scene, "first")?;
    let way: &[(Version, End)] = match place::old_programs() {
        Some(_) => &[
            (Version::New, End::Term),
            (Version::Old, End::Kill),
            (Version::New, End::Kill),
            (Version::Old, End::Term),
            (Version::New, End::Term),
        ],
        None => &[(Version::New, End::Term), (Version::Old, End::Kill), (Version::New, End::Kill)],
    };
    for (step, (version, end)) in way.iter().enumerate() {
        let what = format!("step {step}, to the {version:?} version by {end:?}");
        take_over(&mut scene, &mut fleet, *version, *end, step).context(what)?;
    }
    fleet.remove(&scene)?;
    settle(&mut oracle, &mut scene)
}

fn settle(oracle: &mut Oracle, scene: &mut Scene) -> Result<()> {
    oracle.agent_is_now(scene.agent()?.pid());
    oracle.nothing_left()
}

/// One agent after the other, in place.
fn replace(scene: &mut Scene, version: Version, end: End) -> Result<()> {
    let agent = scene.agent()?;
    Programs::of(&agent.settings.dir).install(version)?;
    configure(&mut agent.settings)?;
    match end {
        End::Kill => agent.kill9()?,
        End::Term => {
            let status = agent.stop()?;
            ensure!(status.success(), "{status}");
        }
    }
    agent.start_again()
}

/// The keys that the program knows: an older one refuses a newer one's.
fn configure(settings: &mut Settings) -> Result<()> {
    let program = settings.program.to_string_lossy();
    let known = process::stdout(&program, ["config", "--default"])?;
    settings.network_mode = known.contains("\n[network]\n").then_some("auto");
    settings.write()
}

fn take_over(scene: &mut Scene, fleet: &mut Fleet, version: Version, end: End, step: usize) -> Result<()> {
    // A package manager replaces files under the agent that runs: it starts helpers of the other version from then on.
    let dir = scene.agent()?.settings.dir.clone();
    Programs::of(&dir).install(version)?;
    fleet.add_pod(scene, &format!("mixed-{step}")).context("an agent with helpers of the other version")?;
    // The session's own are not among them.
    let before = programs::kept_processes();
    let session = fleet.session(scene)?;
    ensure!(!before.is_empty(), "no processes");
    replace(scene, version, end)?;
    session.end(scene)?;
    let gone: Vec<_> = before.into_iter().filter(|process| !process.lives()).collect();
    ensure!(gone.is_empty(), "these have ended: {gone:?}");
    fleet.works(scene, step).context("what others have made")?;
    fleet.use_up(scene, step).context("what others have prepared")?;
    fleet.add_pod(scene, &format!("pure-{step}"))?;
    println!(
        "NOTE: {} pods and their {} processes were taken over by {end:?}",
        fleet.pods(),
        programs::kept_processes().len()
    );
    Ok(())
}
