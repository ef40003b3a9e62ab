//! The same node image with containerd and runc, as kind has them: what a cluster of Holdfast is compared with.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    docker::{CAP_SYS_RESOURCE, Docker, may_have},
    images, node,
};
use crate::{
    containerd, kubernetes,
    kubernetes::VERSION,
    run::{command, output, step},
    tools,
    work::{Work, once},
};

/// The image's name.
pub fn name() -> String {
    format!("holdfast/kind-node-containerd:{VERSION}")
}

/// Limit of containerd's start.
const SERVES: Duration = Duration::from_secs(30);

/// Builds the image into that Docker: its images of the control plane are imported by a containerd in a container, as kind's
/// own build does.
pub fn load(work: &Work, docker: &Docker) -> Result<()> {
    containerd::build(work)?;
    let dir = work.dir("kind")?;
    let base = node::base(work, &dir)?;
    let archive = dir.join("peer-image.tar");
    let inputs = format!("1 {VERSION} {} {}", containerd::VERSION, node::files(work)?);
    once(&dir.join("peer-image.stamp"), &inputs, || {
        let overlay = node::empty_overlay(&dir.join("peer-overlay"))?;
        node::add_kubernetes(work, &overlay)?;
        add_containerd(work, &overlay)?;
        step(&format!("packing the node image {}", name()), || {
            node::pack(&dir, &base, &overlay, &archive, &name())
        })
    })?;
    output(docker.docker(["load", "--quiet", "--input"]).arg(&archive))?;
    let layout = dir.join("peer-images");
    images::layout(work, &base, &layout)?;
    step("importing the images of the control plane into containerd", || import(docker, &layout))?;
    fs::remove_dir_all(&layout).context("remove the layout")
}

fn add_containerd(work: &Work, overlay: &Path) -> Result<()> {
    let built = work.tools().join("containerd");
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        node::copy(&built.join(program), &overlay.join("usr/local/bin").join(program), 0o755)?;
    }
    node::copy(&tools::runc(work)?, &overlay.join("usr/local/sbin/runc"), 0o755)?;
    let kind = kubernetes::kind_module(work)?.join("images/base/files");
    let config = kind.join("etc/containerd/config.toml");
    let mut text = fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?;
    if !may_have(CAP_SYS_RESOURCE)? {
        text = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true");
    }
    node::copy(
        &kind.join("etc/systemd/system/containerd.service"),
        &overlay.join("etc/systemd/system/containerd.service"),
        0o644,
    )?;
    let etc = overlay.join("etc/containerd");
    fs::create_dir_all(&etc).context("make /etc/containerd")?;
    node::write(&etc.join("config.toml"), &text)?;
    // What the Dockerfile of kind's base image makes of `ctr oci spec`.
    let spec = output(&mut command(built.join("ctr"), ["oci", "spec"]))?;
    let mut spec: Value = serde_json::from_str(&spec).context("read ctr's spec")?;
    spec["hooks"] = json!({"createContainer": [{"path": "/kind/bin/mount-product-files.sh"}]});
    if let Some(process) = spec["process"].as_object_mut() {
        process.remove("rlimits");
    }
    node::write(&etc.join("cri-base.json"), &spec.to_string())?;
    let ours = work.repo.join("manifests/kind/node");
    for (file, mode) in [
        ("etc/default/kubelet", 0o644),
        ("kind/manifests/default-cni.yaml", 0o644),
        ("kind/bin/kind-network", 0o755),
    ] {
        node::copy(&ours.join(file), &overlay.join(file), mode)?;
    }
    Ok(())
}

fn import(docker: &Docker, layout: &Path) -> Result<()> {
    let archive = layout.with_extension("tar");
    output(command("tar", ["--create", "--file"]).arg(&archive).arg("-C").arg(layout).arg("."))?;
    let id = output(&mut docker.docker([
        "run",
        "--detach",
        "--privileged",
        "--entrypoint",
        "sleep",
        &name(),
        "infinity",
    ]))?;
    let id = id.trim();
    output(&mut docker.docker(["exec", "--detach", id, "containerd"]))?;
    let begun = Instant::now();
    while output(&mut docker.docker(["exec", id, "ctr", "version"])).is_err() {
        ensure!(begun.elapsed() < SERVES, "containerd does not serve in the container");
        thread::sleep(Duration::from_millis(100));
    }
    let mut import = docker.docker([
        "exec",
        "--interactive",
        id,
        "ctr",
        "--namespace=k8s.io",
        "images",
        "import",
        "--digests",
        "-",
    ]);
    let file = File::open(&archive).with_context(|| format!("open {}", archive.display()))?;
    let status = import.stdin(file).stdout(std::process::Stdio::null()).status().context("run ctr")?;
    ensure!(status.success(), "ctr images import: {status}");
    output(&mut docker.docker(["exec", id, "pkill", "-x", "containerd"]))?;
    thread::sleep(Duration::from_secs(1));
    let entrypoint = "ENTRYPOINT [\"/usr/local/bin/entrypoint\", \"/sbin/init\"]";
    output(&mut docker.docker(["commit", "--change", entrypoint, id, &name()]))?;
    output(&mut docker.docker(["rm", "--force", "--volumes", id]))?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}
