//! Other clients than crictl on the unix socket: what they take for the host of a request is not what crictl takes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Scene, place, process, scene::BUSYBOX, specs};

/// The socket of the scene's runtime.
fn socket(scene: &Scene) -> Result<String> {
    let endpoint = scene.crictl.endpoint();
    Ok(endpoint.strip_prefix("unix://").with_context(|| format!("{endpoint} is no unix socket"))?.to_owned())
}

fn ensure_success(what: &str, output: &Output) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}: {}", output.status, text.trim());
    Ok(())
}

/// gRPC's C core writes the socket's path with percent signs as the authority: `run%2Fholdfast%2Fholdfast.sock`.
#[test]
fn a_life_through_pythons_grpc() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let python = place::python();
    if !python.exists() {
        println!("SKIP: Python's gRPC is not in {}: cargo x prepare", python.display());
        return Ok(());
    }
    let oracle = scene.oracle()?;
    let logs = scene.dir.join(format!("logs/python-{}", specs::unique()));
    fs::create_dir_all(&logs)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/life_cycle.py");
    let mut client = Command::new(python.join("bin/python3"));
    client.env("PYTHONPATH", python.join("modules")).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = process::run(client.arg(script).args([&socket(&scene)?, BUSYBOX]).arg(&logs))?;
    ensure_success("life_cycle.py", &output)?;
    // It removed the image that was there before.
    scene.crictl.ok(&["pull", BUSYBOX])?;
    fs::remove_dir_all(&logs)?;
    oracle.nothing_left()
}

/// A kubelet before 1.31 dials the path itself, so that the path is the authority: with percent signs and in HPACK's
/// Huffman code.
#[test]
fn calls_of_an_old_grpc_go() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let mut client = Command::new(place::old_grpc_go());
    client.arg(socket(&scene)?);
    for (service, method) in [
        ("RuntimeService", "Version"),
        ("RuntimeService", "Status"),
        ("RuntimeService", "ListPodSandbox"),
        ("ImageService", "ListImages"),
        ("RuntimeService", "Version"),
    ] {
        client.arg(format!("/runtime.v1.{service}/{method}"));
    }
    let output = process::run(&mut client)?;
    ensure_success("old-grpc-go", &output)?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    ensure!(lines == 5, "{lines} answers");
    Ok(())
}
