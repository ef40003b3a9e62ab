//! `cargo x critest`: the conformance tests of CRI, from the real Go module, against an agent of their own.
//!
//! Here critest and stand-ins for its images are built. The run itself is `holdfast-critest` of the package e2e, which
//! has a registry and an agent already; this process becomes it, so that a Ctrl-C reaches the one that cleans up.

mod build;
mod images;
pub(crate) mod nginx;

use std::{convert::Infallible, env, os::unix::process::CommandExt, path::PathBuf};

use anyhow::{Error, Result};

use crate::{
    apt, build as programs, host,
    run::{command, shown, step},
    test, tools,
    work::Work,
};

/// Debian packages besides those of the tests: some specs run ipcmk on the host.
const PACKAGES: &[&str] = &["util-linux-extra"];

/// Prepares all and becomes the run; `args` are critest's.
pub fn critest(work: &Work, args: &[String]) -> Result<Infallible> {
    let packages: Vec<&str> = apt::TESTS.iter().chain(PACKAGES).copied().collect();
    host::check(host::TESTS, &apt::missing(&packages))?;
    apt::install(work, &packages)?;
    tools::prepare(work)?;
    let runner = prepare(work)?;
    // For somebody who tests programs that are built already, as the end-to-end tests read it.
    let given = env::var_os("HOLDFAST_E2E_BIN");
    if given.is_none() {
        programs::programs(work, programs::Profile::Release)?;
    }
    let mut run = command(runner, args);
    test::environment(&mut run, work, programs::Profile::Release);
    if let Some(programs) = given {
        run.env("HOLDFAST_E2E_BIN", programs);
    }
    let error = run.exec();
    Err(Error::new(error).context(format!("run {}", shown(&run))))
}

/// Builds critest, its images and what runs it, and returns the last.
pub fn prepare(work: &Work) -> Result<PathBuf> {
    let digest = images::prepare(work)?;
    build::critest(work, &digest)?;
    step("building what runs critest", || {
        programs::cargo(work, &["build", "--quiet", "-p", "holdfast-e2e", "--bin", "holdfast-critest"])
    })?;
    Ok(work.target.join("debug/holdfast-critest"))
}
