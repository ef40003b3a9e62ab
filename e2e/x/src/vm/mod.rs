//! `cargo x vm`: the end-to-end tests on Debian trixie with systemd, cgroup v2 and AppArmor, under qemu.
//!
//! The system disk is built once and never changed: the machine works on a snapshot. What is tested comes on a second
//! disk, which also brings results and logs back; neither needs a mount here. The serial console shows how it goes.

mod disk;
mod machine;
mod tree;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    apt, build, host,
    run::step,
    summary::{Counts, Reader},
    test,
    work::Work,
};

/// What to do in the machine.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// Boot, look, and power off.
    pub boot_only: bool,
}

/// Debian packages that make and run the machine.
const PACKAGES: &[&str] = &["debootstrap", "e2fsprogs", "qemu-system-x86"];

/// A machine that hangs must not hang the command.
const LIMIT: Duration = Duration::from_hours(1);

/// Boots the machine and runs the tests in it.
pub fn vm(work: &Work, options: &Options) -> Result<Counts> {
    let packages: Vec<&str> = apt::TESTS.iter().chain(PACKAGES).copied().collect();
    host::check(host::TESTS, &apt::missing(&packages))?;
    apt::install(work, &packages)?;
    let dir = work.dir("vm")?;
    let executables = if options.boot_only {
        Vec::new()
    } else {
        test::prepare(work)?;
        build::programs(work)?;
        let all = step("building the tests", || test::executables(work))?;
        all.into_iter()
            .filter(|executable| executable.end_to_end || WITH_V2.contains(&package(executable)))
            .collect()
    };
    let system = tree::prepare(work, &dir)?;
    let accelerator = machine::accelerator(&dir, &system)?;
    let payload = step("filling the second disk", || {
        disk::payload(work, &dir, &executables, options, accelerator.slowness())
    })?;
    step(&format!("booting ({})", accelerator.name()), || {
        machine::run(&dir, &system, &payload, accelerator, LIMIT)
    })?;
    let results = step("bringing back results and logs", || disk::results(&dir, &payload))?;
    println!("    {}", results.display());
    count(&results, options.boot_only)
}

/// Packages whose own tests have more to do on a machine with cgroup v2 and systemd.
const WITH_V2: &[&str] = &["cgroup", "spec"];

fn package(executable: &test::Executable) -> &str {
    executable.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Adds up what each executable's log says.
fn count(results: &Path, boot_only: bool) -> Result<Counts> {
    let mut total = Counts::default();
    let facts = fs::read_to_string(results.join("machine.txt")).context("the machine left no results")?;
    facts.lines().for_each(|line| println!("    {line}"));
    if boot_only {
        return Ok(total);
    }
    ensure!(results.join("done").exists(), "the tests in the machine came to no end");
    let mut logs: Vec<_> =
        fs::read_dir(results).context("list the results")?.flatten().map(|e| e.path()).collect();
    logs.sort();
    for log in logs.iter().filter(|path| path.extension().is_some_and(|ending| ending == "log")) {
        let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
        let mut reader = Reader::default();
        for line in String::from_utf8_lossy(&text).lines() {
            reader.line(line);
        }
        let status = fs::read_to_string(log.with_extension("status")).unwrap_or_default();
        let (counts, reasons) = reader.finish(status.trim() == "0");
        println!("    {}: {counts}", log.file_stem().unwrap_or_default().to_string_lossy());
        for reason in reasons {
            println!("    skipped: {reason}");
        }
        total += counts;
    }
    ensure!(!logs.is_empty(), "the machine left no results");
    Ok(total)
}
