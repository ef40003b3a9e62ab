//! Figures of containerd.

use std::path::Path;

use anyhow::Result;

use super::table::Figure;
use crate::{containerd::Containerd, work::Work};

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
