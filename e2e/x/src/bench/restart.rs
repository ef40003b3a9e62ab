//! Restarts of a runtime that the client starts itself.

use std::{
    ffi::OsString,
    fs::File,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{parse, table::Figure};
use crate::{build::Profile, images, place::Place, run::output, work::Work};

/// Pods with a container each; the first number is also containerd's.
pub const PODS: [usize; 3] = [100, 500, 1000];

/// Runs the client as the last argument of `client`, which gives it namespaces.
pub fn measure(
    work: &Work,
    place: &Place,
    mut client: Command,
    daemon: &[OsString],
    pods: usize,
    args: &[String],
) -> Result<Vec<Figure>> {
    let log = File::create(place.log()).context("create the runtime's log")?;
    client
        .arg(Profile::Release.directory(work).join("holdfast-bench"))
        .arg(format!("--endpoint=unix://{}", place.socket().display()))
        .args(["--image", images::BENCH, "--cgroup-parent", &place.cgroup_parent()])
        .args(["--restarts=5".to_owned(), format!("--pods={pods}")])
        .args(args)
        .arg("--")
        .args(daemon);
    let text = output(client.stdin(Stdio::null()).stderr(log))?;
    parse(&client, &text)
}
