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
    apt, build, critest, host, kind,
    run::step,
    summary::{Counts, Reader},
    test,
    work::Work,
};

/// What to do in the machine.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Only tests whose name contains this, and nothing else.
    pub filter: Option<String>,
    /// Only one part of all.
    pub only: Option<Part>,
}

/// What the machine is booted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Nothing: show what the machine is.
    Boot,
    /// The tests.
    Tests,
    /// critest.
    Critest,
    /// The tests of SELinux, with that in AppArmor's place.
    Selinux,
    /// A kind cluster of one node, and the tests of `cargo x kind`. Only by its name: it takes long where all is emulated.
    Kind,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        match (self.only, &self.filter) {
            (Some(only), _) => only == part,
            (None, Some(_)) => part == Part::Tests,
            (None, None) => !matches!(part, Part::Boot | Part::Kind),
        }
    }
}

/// One boot.
struct Boot {
    name: &'static str,
    /// More of the kernel's command line.
    kernel: &'static str,
    load: disk::Load,
}

/// Debian packages that make and run the machine.
const PACKAGES: &[&str] = &["debootstrap", "e2fsprogs", "qemu-system-x86"];

/// A machine that hangs must not hang the command.
const LIMIT: Duration = Duration::from_hours(2);

/// Boots the machine and runs the tests in it.
pub fn vm(work: &Work, options: &Options) -> Result<Counts> {
    let packages: Vec<&str> = apt::TESTS.iter().chain(PACKAGES).copied().collect();
    host::check(host::TESTS, &apt::missing(&packages))?;
    apt::install(work, &packages)?;
    let dir = work.dir("vm")?;
    let boots = boots(work, options)?;
    let system = tree::prepare(work, &dir)?;
    let accelerator = machine::accelerator(&dir, &system)?;
    let mut total = Counts::default();
    for boot in &boots {
        let payload = step("filling the second disk", || {
            disk::payload(work, &dir, &boot.load, accelerator.slowness())
        })?;
        step(&format!("booting for {} ({})", boot.name, accelerator.name()), || {
            machine::run(&dir, &system, &payload, accelerator, boot.kernel, LIMIT)
        })?;
        let results = step("bringing back results and logs", || disk::results(&dir, &payload, boot.name))?;
        println!("    {}", results.display());
        total += count(&results, boot.load.is_empty())?;
    }
    Ok(total)
}

/// Builds what is to be run.
fn boots(work: &Work, options: &Options) -> Result<Vec<Boot>> {
    let mut main = Boot { name: "tests", kernel: "security=apparmor", load: disk::Load::default() };
    if options.only == Some(Part::Boot) {
        return Ok(vec![main]);
    }
    if options.only == Some(Part::Kind) {
        kind::prepare(work)?;
        main.load.kind = true;
        return Ok(vec![Boot { name: "kind", ..main }]);
    }
    test::prepare(work)?;
    build::programs(work, build::Profile::Release)?;
    let mut boots = Vec::new();
    let mut suite = Vec::new();
    if options.wants(Part::Tests) || options.wants(Part::Selinux) {
        let mut all = step("building the tests", || test::executables(work))?;
        suite = all.iter().filter(|executable| executable.end_to_end).cloned().collect();
        // Faults under churn take an hour where everything is emulated: by name alone.
        let all_wanted = options.filter.is_some();
        all.retain(|executable| match package(executable) {
            "e2e" => true,
            name if executable.end_to_end => all_wanted && name == "chaos",
            name => WITH_V2.contains(&name),
        });
        if options.wants(Part::Tests) {
            main.load.executables = all;
            main.load.filter.clone_from(&options.filter);
        }
    }
    if options.wants(Part::Critest) {
        main.load.critest = Some(critest::prepare(work)?);
    }
    if !main.load.is_empty() {
        boots.push(main);
    }
    if options.wants(Part::Selinux) {
        // Permissive: it labels all the same, and Debian's policy knows no service of ours.
        let kernel = "security=selinux selinux=1 enforcing=0";
        let load =
            disk::Load { executables: suite, filter: Some("selinux".to_owned()), ..disk::Load::default() };
        boots.push(Boot { name: "selinux", kernel, load });
    }
    Ok(boots)
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
        let text = String::from_utf8_lossy(&text);
        let status = fs::read_to_string(log.with_extension("status")).unwrap_or_default();
        let success = status.trim() == "0";
        let name = log.file_stem().unwrap_or_default().to_string_lossy();
        let (counts, reasons) = if [disk::CRITEST, disk::KIND].contains(&name.as_ref()) {
            (Counts::of_last_line(&text, success), Vec::new())
        } else {
            let mut reader = Reader::default();
            text.lines().for_each(|line| reader.line(line));
            reader.finish(success)
        };
        println!("    {name}: {counts}");
        for reason in reasons {
            println!("    skipped: {reason}");
        }
        total += counts;
    }
    ensure!(!logs.is_empty(), "the machine left no results");
    Ok(total)
}
