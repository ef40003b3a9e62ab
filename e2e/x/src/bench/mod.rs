//! `cargo x bench`: the benchmark client against an agent of its own, and against containerd on the same machine.

mod containerd;
mod holdfast;
mod restart;
mod table;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    apt,
    build::{self, Profile},
    host, images, install,
    place::Place,
    run::{command, output, shown, step},
    work::Work,
};
use table::{Column, Figure};

/// What `cargo x bench` is told.
#[derive(Debug)]
pub struct Options {
    /// Leave containerd out.
    pub alone: bool,
    /// Measure restarts, and nothing else.
    pub restart: bool,
    /// The agent's program, if one is there that shall be measured.
    pub program: Option<PathBuf>,
    /// Arguments of the benchmark client.
    pub args: Vec<String>,
}

/// Builds, measures one runtime after the other, and prints the table.
pub fn bench(work: &Work, options: &Options) -> Result<()> {
    let needs = if options.alone { host::DEMO } else { host::TESTS };
    host::check(needs, &apt::missing(apt::TESTS))?;
    apt::install(work, apt::TESTS)?;
    let program = match &options.program {
        Some(program) => program.canonicalize().with_context(|| format!("find {}", program.display()))?,
        None => installed(work)?,
    };
    step("building the benchmark client (release)", || {
        build::cargo(work, &["build", "--release", "--quiet", "-p", "holdfast-bench"])
    })?;
    if !options.alone {
        crate::containerd::build(work)?;
    }
    let image = images::bench(work)?;
    let args = &options.args;
    let ours = || {
        let measure = if options.restart { holdfast::restarts } else { holdfast::measure };
        measure(work, &program, &image, args)
    };
    let theirs = || {
        let measure = if options.restart { containerd::restarts } else { containerd::measure };
        measure(work, &image, args)
    };
    let mut columns =
        vec![Column { title: "holdfast".to_owned(), figures: step("measuring holdfast", ours)? }];
    if !options.alone {
        let title = format!("containerd {}", crate::containerd::VERSION);
        columns.push(Column { title, figures: step("measuring containerd", theirs)? });
    }
    print!("{}", table::table(&columns));
    Ok(())
}

/// Builds the programs and installs them in a tree of its own, as users get them.
fn installed(work: &Work) -> Result<PathBuf> {
    build::programs(work, Profile::Release)?;
    // With a prefix, so that the agent finds its helpers from where it lies itself.
    let options =
        install::Options { destdir: Some(work.dir("installed")?), prefix: Some(PathBuf::from("/usr/local")) };
    let layout = install::Layout::new(&options)?;
    layout.install(work)?;
    Ok(layout.program())
}

/// Runs the client in the network namespace of process `runtime`, where sessions are served on loopback.
fn client(work: &Work, place: &Place, runtime: u32, own: &[&str], args: &[String]) -> Result<Vec<Figure>> {
    let endpoint = format!("unix://{}", place.socket().display());
    let mut client = command("nsenter", ["--target", &runtime.to_string(), "--net", "--"]);
    client
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(Profile::Release.directory(work).join("holdfast-bench"));
    client.args(["--endpoint", &endpoint, "--image", images::BENCH, "--dirty-dir"]).arg(place.root());
    client.args(own).args(args);
    // What it says beside is for people.
    let text = output(client.stderr(Stdio::inherit()))?;
    parse(&client, &text)
}

fn parse(client: &Command, text: &str) -> Result<Vec<Figure>> {
    serde_json::from_str(text).with_context(|| format!("read what {} prints", shown(client)))
}
