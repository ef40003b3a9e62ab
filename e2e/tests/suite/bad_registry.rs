//! Registries that are down, refuse, lie or stall: a typed error in time, and nothing committed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_e2e::{
    Crictl, Scene,
    hostile::{Hostile, Vice},
    place,
};

const IMAGE: &str = "holdfast.test/greeter:1";

#[test]
fn an_honest_one_is_served() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let honest = Hostile::serve(IMAGE, Vice::None)?;
    scene.crictl.ok(&["pull", &honest.image()])?;
    Ok(())
}

#[test]
fn one_that_is_down() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    scene.registry.stop()?;
    refused(&scene.crictl, &scene.registry.image("greeter:1"), &["Unavailable"], &scene.registry.address)?;
    oracle.nothing_left()
}

#[test]
fn one_that_wants_a_login() -> Result<()> {
    vicious(Vice::Unauthorized, &["Unauthenticated", "PermissionDenied"])
}

/// What a client logs in with is in no line of the log, though it tells all.
#[test]
fn credentials_are_in_no_log() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let hostile = Hostile::serve("holdfast.test/greeter:1", Vice::Unauthorized)?;
    let creds = "a-known-user:a-known-password";
    let bad = format!("{}/greeter:1", hostile.address);
    scene.crictl.refused(&["pull", "--creds", creds, &bad])?;
    scene.crictl.ok(&["pull", "--creds", creds, &scene.registry.image("greeter:1")])?;
    let log = std::fs::read_to_string(scene.agent()?.log())?;
    ensure!(log.contains(&bad), "the pull is not in the log at all:\n{log}");
    for secret in ["a-known-user", "a-known-password", "YS1rbm93bi11c2VyOmEta25vd24tcGFzc3dvcmQ="] {
        ensure!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    Ok(())
}

#[test]
fn one_that_is_broken() -> Result<()> {
    vicious(Vice::Broken, &["Unavailable"])
}

#[test]
fn one_that_sends_another_layer() -> Result<()> {
    vicious(Vice::Digest, &["DataLoss"])
}

#[test]
fn one_that_sends_more_than_it_said() -> Result<()> {
    vicious(Vice::Longer, &["DataLoss"])
}

#[test]
fn one_that_sends_less_than_it_said() -> Result<()> {
    vicious(Vice::Shorter, &["DataLoss", "Unavailable"])
}

#[test]
fn one_whose_manifest_is_garbage() -> Result<()> {
    vicious(Vice::Garbage, &["DataLoss", "InvalidArgument"])
}

#[test]
fn one_that_stalls() -> Result<()> {
    vicious(Vice::Stall, &["Unavailable", "DeadlineExceeded"])
}

#[test]
fn images_that_are_not_there() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for image in ["no-such-repository:1", "greeter:no-such-tag"] {
        refused(&scene.crictl, &scene.registry.image(image), &["NotFound"], image)?;
    }
    let digest = format!("greeter@sha256:{}", "0".repeat(64));
    refused(&scene.crictl, &scene.registry.image(&digest), &["NotFound"], "greeter")?;
    oracle.nothing_left()
}

fn vicious(vice: Vice, codes: &[&str]) -> Result<()> {
    let Some(scene) = Scene::ours_with(|settings| settings.image.push_str("progress_timeout_s = 2"))? else {
        return Ok(());
    };
    let oracle = scene.oracle()?;
    let registry = Hostile::serve(IMAGE, vice)?;
    refused(&scene.crictl, &registry.image(), codes, "hostile")?;
    drop(registry);
    oracle.nothing_left()
}

/// The pull fails in time with one of the codes, and its text names the image or the registry.
fn refused(crictl: &Crictl, image: &str, codes: &[&str], named: &str) -> Result<()> {
    let begin = Instant::now();
    let refusal = crictl.refused(&["pull", image])?;
    ensure!(codes.contains(&refusal.code.as_str()), "{image}: {codes:?} expected: {refusal:?}");
    ensure!(refusal.text.contains(named), "{named} is not in {refusal:?}");
    let limit = Duration::from_secs(45) * place::slowness();
    ensure!(begin.elapsed() < limit, "{image}: the refusal took {:?}", begin.elapsed());
    Ok(())
}
