//! `cargo x demo`: from a clone to a pod's greeting.

use std::path::Path;

use anyhow::Result;

use crate::{
    apt, build, host, images,
    place::Place,
    run::{loud, step},
    work::Work,
};

/// Builds all, runs the sample pod, and cleans up.
pub fn demo(work: &Work) -> Result<()> {
    host::check(host::DEMO, &apt::missing(apt::BUILD))?;
    apt::install(work, apt::BUILD)?;
    build::programs(work, build::Profile::Release)?;
    let image = images::demo(work)?;
    let place = Place::make(work, "demo")?;
    let program = build::Profile::Release.directory(work).join("holdfast");
    let outcome = run(work, &place, &program, &image);
    let cleaned = place.remove();
    outcome.and(cleaned)
}

fn run(work: &Work, place: &Place, program: &Path, image: &Path) -> Result<()> {
    step("importing the sample image", || loud(place.command(program, &["image", "import"]).arg(image)))?;
    let manifest = work.repo.join("manifests/demo-pod.yaml");
    println!("==> holdfast run manifests/demo-pod.yaml");
    loud(place.command(program, &["run"]).arg(&manifest))
}
