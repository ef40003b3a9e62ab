//! `holdfast serve` and its configuration: what a user sees when something is wrong.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Scene, agent::Settings, place, process};
use serde_json::Value;

#[test]
fn an_unknown_key_is_named_with_file_and_line() -> Result<()> {
    if Scene::ours()?.is_none() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, "log_level = \"info\"\nrooot = \"/x\"\n")?;
    let output = process::run(Command::new(place::holdfast()).arg("serve").arg("--config").arg(&config))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(text.contains("rooot") && text.contains("config.toml") && text.contains('2'), "{text}");
    let absent = dir.path().join("absent.toml");
    let output = process::run(Command::new(place::holdfast()).arg("serve").arg("--config").arg(&absent))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && text.contains("absent.toml"), "{}: {text}", output.status);
    Ok(())
}

#[test]
fn a_second_agent_names_the_first() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let agent = scene.agent()?;
    let output = process::run(&mut agent.command(&["serve"]))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = agent.pid().context("no agent")?;
    ensure!(output.status.code() == Some(1) && text.contains(&pid.to_string()), "{}: {text}", output.status);
    agent.crictl().ok(&["version"]).context("the first one, after the second tried")?;
    Ok(())
}

#[test]
fn usage_and_version() -> Result<()> {
    if Scene::ours()?.is_none() {
        return Ok(());
    }
    let usage = process::run(Command::new(place::holdfast()).args(["serve", "--no-such-option"]))?;
    ensure!(usage.status.code() == Some(2), "{}", usage.status);
    let version = process::run(Command::new(place::holdfast()).args(["version", "-o", "json"]))?;
    let version: Value = serde_json::from_slice(&version.stdout).context("version -o json")?;
    ensure!(version["version"].is_string(), "{version}");
    Ok(())
}

/// The layout of `cargo x install --prefix`.
#[test]
fn an_agent_finds_its_helpers_in_its_prefix() -> Result<()> {
    let install = |settings: &mut Settings| {
        let (bin, libexec) = (settings.dir.join("prefix/bin"), settings.dir.join("prefix/libexec/holdfast"));
        for (dir, names) in [(&bin, &["holdfast"][..]), (&libexec, &["holdfast-pod", "holdfast-shim"])] {
            fs::create_dir_all(dir).unwrap();
            for name in names {
                fs::copy(place::programs().join(name), dir.join(name)).unwrap();
            }
        }
        settings.program = bin.join("holdfast");
    };
    let Some(mut scene) = Scene::ours_with(install)? else { return Ok(()) };
    let oracle = scene.oracle().context("run a pod")?;
    oracle.nothing_left()?;
    // Without a shim it says where it looked.
    fs::remove_file(scene.dir.join("prefix/libexec/holdfast/holdfast-shim"))?;
    let agent = scene.agent()?;
    agent.stop()?;
    if Path::new("/usr/libexec/holdfast/holdfast-shim").exists() {
        return Ok(());
    }
    let output = process::run(&mut agent.command(&["serve"]))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let told =
        ["holdfast-shim", "../libexec/holdfast", "shim_program"].iter().all(|word| text.contains(word));
    ensure!(output.status.code() == Some(1) && told, "{}: {text}", output.status);
    Ok(())
}

/// A shim that was not built as ours is: four times the memory for each container.
#[test]
fn a_dynamic_shim_is_warned_of() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let log = |scene: &mut Scene| Ok::<_, anyhow::Error>(fs::read_to_string(scene.agent()?.log())?);
    ensure!(
        !log(&mut scene)?.contains("linked dynamically"),
        "the programs that are tested have a dynamic shim"
    );
    drop(scene);
    // The agent never runs it here.
    let change = |settings: &mut Settings| settings.more = "shim_program = \"/usr/bin/env\"".to_owned();
    let Some(mut scene) = Scene::ours_with(change)? else { return Ok(()) };
    let text = log(&mut scene)?;
    let warnings: Vec<_> = text.lines().filter(|line| line.contains("linked dynamically")).collect();
    let told = |line: &&str| line.contains("/usr/bin/env") && line.contains("cargo x build --release");
    ensure!(warnings.len() == 1 && warnings.iter().all(told), "{text}");
    Ok(())
}

/// What a kubelet asks at its start.
#[test]
fn a_kubelet_s_first_questions() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let version = scene.crictl.ok(&["version"])?;
    ensure!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = scene.crictl.json(&["info"])?;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
        let condition = conditions.iter().find(|condition| condition["type"] == kind);
        ensure!(condition.is_some_and(|condition| condition["status"] == true), "{kind}: {info}");
    }
    Ok(())
}
