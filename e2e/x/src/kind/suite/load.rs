//! `kind load`: archives, and images of Docker.

use anyhow::{Context, Result, ensure};

use super::Scene;
use crate::run::output;

/// An archive of Docker's containerd image store names every platform and has the blobs of one (kind#3795).
pub fn without_other_platforms(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    cluster.kind_ok(&["load", "image-archive", &scene.images.partial.to_string_lossy()])?;
    for (node, _) in cluster.nodes()? {
        let images = cluster.on_node(&node, &["crictl", "images"])?;
        ensure!(images.contains("holdfast.local/partial"), "not on {node}:\n{images}");
    }
    Ok(())
}

/// Both ways; what is there already is not sent again, and a further tag costs no archive.
pub fn archives_and_docker(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let docker = |args: &[&str]| output(&mut cluster.docker.docker(args.iter().copied()));
    cluster.kind_ok(&["load", "image-archive", &scene.images.busybox.to_string_lossy()])?;
    docker(&["load", "--quiet", "--input", &scene.images.nginx.to_string_lossy()])?;
    cluster.kind_ok(&["load", "docker-image", "holdfast.local/nginx:1"])?;
    docker(&["tag", "holdfast.local/nginx:1", "holdfast.local/nginx:again"])?;
    cluster.kind_ok(&["load", "docker-image", "holdfast.local/nginx:again"])?;
    for (node, _) in cluster.nodes()? {
        let tags = cluster.on_node(&node, &["ctr", "-n", "k8s.io", "images", "ls", "-q"])?;
        for tag in ["holdfast.local/busybox:1", "holdfast.local/nginx:1", "holdfast.local/nginx:again"] {
            ensure!(tags.lines().any(|line| line == tag), "{tag} is not on {node}:\n{tags}");
        }
    }
    Ok(())
}

/// The fronts say what they are.
pub fn refusals(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let (node, _) = cluster.nodes()?.into_iter().next().context("a node")?;
    let calls: [&[&str]; 4] = [
        &["ctr", "-n", "k8s.io", "containers", "ls"],
        &["ctr", "-n", "default", "images", "ls"],
        &["ctr", "-n", "k8s.io", "images", "import", "--local", "-"],
        &["containerd", "config", "default"],
    ];
    for call in calls {
        let refused = cluster.on_node(&node, call);
        let text =
            refused.err().map(|error| format!("{error:#}")).with_context(|| format!("{call:?} succeeded"))?;
        ensure!(text.contains("Holdfast serves here"), "{call:?}: {text}");
    }
    Ok(())
}
