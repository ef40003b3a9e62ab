//! `holdfast serve` and its configuration: what a user sees when something is wrong.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Scene, place, process};
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
