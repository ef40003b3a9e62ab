//! Figures of containerd.

use std::path::Path;

use anyhow::Result;

use super::{restart, table::Figure};
use crate::{
    containerd::{self, Containerd},
    work::Work,
};

/// The processes that stand for a pod, behind the daemon.
const PROCESSES: &str = "containerd,containerd-shim-runc-v2,pause";

/// Starts containerd, runs the client, and ends all of it.
pub fn measure(work: &Work, image: &Path, args: &[String]) -> Result<Vec<Figure>> {
    let containerd = Containerd::start(work, "peer")?;
    let parent = containerd.place.cgroup_parent();
    let own = ["--processes", PROCESSES, "--transports", "spdy", "--cgroup-parent", &parent];
    let figures = containerd
        .import(work, image)
        .and_then(|()| super::client(work, &containerd.place, containerd.pid(), &own, args));
    let ended = containerd.end();
    figures.and_then(|figures| ended.map(|()| figures))
}

/// Pods with which containerd is restarted; ours is with more as well.
const PODS: usize = restart::PODS[0];

/// Restarts it with pods.
pub fn restarts(work: &Work, image: &Path, args: &[String]) -> Result<Vec<Figure>> {
    let containerd = Containerd::start(work, "peer")?;
    containerd.import(work, image)?;
    let place = containerd.leave()?;
    let client = containerd::in_namespaces(work);
    let daemon = containerd::words(work, &place);
    let figures = restart::measure(work, &place, client, &daemon, PODS, args)?;
    place.remove()?;
    Ok(figures)
}
