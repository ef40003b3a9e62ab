//! Checks of an agent that is started on a disk after a power cut.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use holdfast_chaos::wire::Cri;
use holdfast_cri::v1;
use holdfast_e2e::{process, scene::BUSYBOX};

use crate::{
    agent::Agent,
    journal::{Ended, Promises},
    record::Recording,
    site::Site,
    workload::{COMING_AND_GOING, pull, remove_image, remove_pod},
};

/// Programs that hold pods and containers.
const HOLDERS: [&str; 2] = ["holdfast-shim", "holdfast-pod"];

/// Results of the checks of one cut.
#[derive(Debug, Default)]
pub struct Seen {
    /// Violations, each a sentence.
    pub wrong: Vec<String>,
    /// Told as removed, and there again: a removal is not made durable.
    pub back: usize,
    /// Records that could not be read.
    pub aside: usize,
    /// Containers and pods that were listed.
    pub listed: usize,
}

/// Starts an agent on what is mounted, asks it, and lets it pull and remove everything.
///
/// # Errors
/// It does not start, or a call fails that must not.
pub async fn check(site: &Site, recording: &Recording, at: u64) -> Result<Seen> {
    let mut agent = Agent::start(site).await?;
    let mut seen = Seen::default();
    kept(&agent.cri, &recording.journal.promises(at), &mut seen).await?;
    seen.wrong.extend(recording.reference.differences(&site.store())?);
    seen.aside = unreadable(&site.root())?.len();
    for name in COMING_AND_GOING.into_iter().chain([BUSYBOX]) {
        pull(&agent.cri, name).await?;
    }
    let after = recording.reference.differences(&site.store())?;
    seen.wrong.extend(after.into_iter().map(|wrong| format!("after the pulls, {wrong}")));
    seen.wrong.extend(running());
    remove_all(&agent.cri).await?;
    agent.kill()?;
    // As long as nobody knows which images a container had, none of their parts goes.
    if seen.aside == 0 {
        seen.wrong.extend(left(&site.root())?);
    }
    let log = agent.log();
    let bad = log.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
    seen.wrong.extend(bad.map(|line| format!("logged: {line}")));
    Ok(seen)
}

/// Compares what is listed with what was told.
async fn kept(cri: &Cri, promises: &Promises, seen: &mut Seen) -> Result<()> {
    let containers = containers(cri).await?;
    let pods = pods(cri).await?;
    let images = images(cri).await?;
    seen.listed = containers.len() + pods.len();
    for container in
        containers.values().filter(|container| container.state != v1::ContainerState::ContainerExited as i32)
    {
        let state = container.state().as_str_name();
        seen.wrong.push(format!("container {} is {state} after a boot", container.id));
    }
    let ready = pods.iter().filter(|pod| pod.state() == v1::PodSandboxState::SandboxReady);
    seen.wrong.extend(ready.map(|pod| format!("pod {} is READY after a boot", pod.id)));
    for (id, ended) in &promises.exited {
        seen.wrong.extend(forgotten(cri, id, ended, &containers).await?);
        if !pods.iter().any(|pod| pod.id == ended.pod) {
            seen.wrong.push(format!("pod {} of container {id}, told as EXITED, is forgotten", ended.pod));
        }
    }
    let lost = promises.images.iter().filter(|name| !images.contains(name));
    seen.wrong.extend(lost.map(|name| format!("image {name}, told as pulled, is not there")));
    let back = |name: &&String| containers.contains_key(*name) || images.contains(name);
    seen.back = promises.removed.iter().filter(back).count();
    Ok(())
}

/// A container that has ended and is forgotten, or has another exit code.
async fn forgotten(
    cri: &Cri,
    id: &str,
    ended: &Ended,
    containers: &BTreeMap<String, v1::Container>,
) -> Result<Option<String>> {
    if !containers.contains_key(id) {
        return Ok(Some(format!("container {id}, told as EXITED ({:?}), is forgotten", ended.code)));
    }
    let Some(code) = ended.code else { return Ok(None) };
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = cri.runtime.clone().container_status(request).await.context("ContainerStatus")?;
    let status = status.into_inner().status.unwrap_or_default();
    let (is, reason) = (status.exit_code, status.reason);
    Ok((is != code).then(|| format!("container {id}, told as EXITED with {code}, has {is} ({reason})")))
}

async fn containers(cri: &Cri) -> Result<BTreeMap<String, v1::Container>> {
    let request = v1::ListContainersRequest::default();
    let answer = cri.runtime.clone().list_containers(request).await.context("ListContainers")?;
    Ok(answer
        .into_inner()
        .containers
        .into_iter()
        .map(|container| (container.id.clone(), container))
        .collect())
}

async fn pods(cri: &Cri) -> Result<Vec<v1::PodSandbox>> {
    let request = v1::ListPodSandboxRequest::default();
    Ok(cri.runtime.clone().list_pod_sandbox(request).await.context("ListPodSandbox")?.into_inner().items)
}

/// Names of images.
async fn images(cri: &Cri) -> Result<Vec<String>> {
    let request = v1::ListImagesRequest::default();
    let answer = cri.image.clone().list_images(request).await.context("ListImages")?.into_inner();
    Ok(answer.images.into_iter().flat_map(|image| image.repo_tags).collect())
}

/// Holders and shims: after a boot there are none.
fn running() -> Vec<String> {
    let is_holder = |name: &str| HOLDERS.iter().any(|holder| holder[..holder.len().min(15)] == *name);
    let running =
        process::descendants().into_iter().filter(|process| process.state != 'Z' && is_holder(&process.name));
    running.map(|process| format!("{} runs after a boot", process.name)).collect()
}

async fn remove_all(cri: &Cri) -> Result<()> {
    for id in containers(cri).await?.into_keys() {
        let request = v1::RemoveContainerRequest { container_id: id };
        cri.runtime.clone().remove_container(request).await.context("RemoveContainer")?;
    }
    for pod in pods(cri).await? {
        remove_pod(cri, &pod.id).await?;
    }
    let request = v1::ListImagesRequest::default();
    let images = cri.image.clone().list_images(request).await.context("ListImages")?.into_inner().images;
    for image in images {
        remove_image(cri, &image.id).await?;
    }
    Ok(())
}

/// Directories that are empty when all is removed.
const EMPTY: [&str; 6] =
    ["containers", "pods", "images/images", "images/layers", "images/directories", "images/blobs/sha256"];

/// Entries that are left when all is removed, but for records that are set aside.
fn left(root: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for dir in EMPTY {
        let names = names(&root.join(dir))?;
        let found = names.into_iter().filter(|name| !is_aside(name) && name != "whole");
        left.extend(found.map(|name| format!("{dir}/{name} is left")));
    }
    Ok(left)
}

fn unreadable(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for dir in EMPTY {
        found.extend(names(&root.join(dir))?.into_iter().filter(|name| is_aside(name)));
    }
    Ok(found)
}

fn is_aside(name: &str) -> bool {
    name.contains(".unreadable")
}

fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
