//! `cargo x test`: prepares, builds, and runs every test; the last line says how many passed, failed and skipped.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    apt,
    build::{self, Profile},
    host, images,
    run::{command, step},
    summary::{Counts, Reader},
    tools,
    work::Work,
};

/// A test executable that cargo built.
#[derive(Debug, Clone)]
pub struct Executable {
    /// `package/target`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The package's folder, where cargo would run it.
    pub dir: PathBuf,
    /// Drives the built programs: runs alone, one test at a time.
    pub end_to_end: bool,
}

/// What to run.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// Only the end-to-end tests.
    pub e2e: bool,
    /// The end-to-end tests drive the programs that users get.
    pub release: bool,
    /// How many rounds the tests go that race with somebody, if not the few of every day.
    pub rounds: Option<u32>,
}

/// Runs all; the result is the sum.
pub fn test(work: &Work, options: &Options) -> Result<Counts> {
    prepare(work)?;
    let profile = if options.release { Profile::Release } else { Profile::Dev };
    build::programs(work, profile)?;
    let executables = step("building the tests", || {
        if options.e2e { executables_of(work, &["-p", "holdfast-e2e"]) } else { executables(work) }
    })?;
    let proto = tools::cri_api_proto(work)?;
    let mut total = Counts::default();
    for executable in executables.iter().filter(|executable| executable.end_to_end || !options.e2e) {
        let mut run = executable.command(options.filter.as_deref());
        environment(&mut run, work, profile)
            .env("HOLDFAST_CRI_API_PROTO", &proto)
            .env("HOLDFAST_TEST_CNI_BIN", tools::cni_plugins(work));
        let mut limit = if executable.end_to_end { E2E_LIMIT } else { UNIT_LIMIT };
        if let Some(rounds) = options.rounds {
            run.env("HOLDFAST_E2E_ROUNDS", rounds.to_string());
            limit += ROUND_LIMIT * rounds;
        }
        total += run_one(&executable.name, &mut run, limit, executable.end_to_end)?;
    }
    if !options.e2e {
        total += doc_tests(work, options.filter.as_deref())?;
    }
    Ok(total)
}

/// Everything that the tests use but our own programs: packages, tools, images.
pub fn prepare(work: &Work) -> Result<()> {
    host::check(host::TESTS, &apt::missing(apt::TESTS))?;
    apt::install(work, apt::TESTS)?;
    tools::prepare(work)?;
    images::prepare(work)
}

/// A hanging test must not hang the command.
const UNIT_LIMIT: Duration = Duration::from_mins(5);
const E2E_LIMIT: Duration = Duration::from_mins(40);
/// What a round of a race may take more, when many are asked for: a container's life.
const ROUND_LIMIT: Duration = Duration::from_millis(100);

impl Executable {
    /// With the arguments that make its output countable.
    pub fn command(&self, filter: Option<&str>) -> Command {
        let mut run = command(&self.path, ["--show-output"]);
        run.args(filter)
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir)
            .env("RUST_BACKTRACE", "0");
        if self.end_to_end {
            run.arg("--test-threads=1");
        }
        run
    }
}

/// Tells the tests where things are.
pub fn environment<'a>(run: &'a mut Command, work: &Work, profile: Profile) -> &'a mut Command {
    run.env("HOLDFAST_E2E_BIN", profile.directory(work)).env("HOLDFAST_E2E_CACHE", &work.cache)
}

/// Prepares, and builds the programs and the harness of that package: a command that runs it on them.
pub fn harness(work: &Work, package: &str, release: bool, args: &[String]) -> Result<Command> {
    prepare(work)?;
    let profile = if release { Profile::Release } else { Profile::Dev };
    build::programs(work, profile)?;
    step("building the harness", || build::cargo(work, &["build", "--quiet", "-p", package]))?;
    let mut run = command(Profile::Dev.directory(work).join(package), args);
    environment(&mut run, work, profile);
    Ok(run)
}

/// Builds all tests and lists their executables, end-to-end ones last.
pub fn executables(work: &Work) -> Result<Vec<Executable>> {
    executables_of(work, &[&["--workspace"], Profile::Dev.features()].concat())
}

/// Those of some packages, in cargo's words.
pub fn executables_of(work: &Work, packages: &[&str]) -> Result<Vec<Executable>> {
    let args = ["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics"];
    let mut cargo = build::cargo_command(work, &[&args, packages].concat());
    cargo.stdout(Stdio::piped()).env("PROTOC", host::find("protoc").unwrap_or_else(|| "protoc".into()));
    let mut child = cargo.spawn().context("run cargo test --no-run")?;
    let lines = BufReader::new(child.stdout.take().context("cargo's output")?).lines();
    let mut found: Vec<Executable> = lines
        .map_while(Result::ok)
        .filter_map(|line| executable(&serde_json::from_str(&line).ok()?))
        .collect();
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("cargo test --no-run: {status}");
    }
    found.sort_by(|a, b| (a.end_to_end, &a.name).cmp(&(b.end_to_end, &b.name)));
    Ok(found)
}

/// Reads one of cargo's messages ("External tools", in the Cargo book).
fn executable(message: &Value) -> Option<Executable> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = dir.file_name()?.to_string_lossy().into_owned();
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let end_to_end = matches!(package.as_str(), "e2e" | "chaos" | "powercut") && kind == "test";
    Some(Executable { name: format!("{package}: {target} ({kind})"), path, dir, end_to_end })
}

/// Runs one executable to its counts. A failure shows all that it printed; `follow` shows it line by line.
pub fn run_one(name: &str, run: &mut Command, limit: Duration, follow: bool) -> Result<Counts> {
    println!("==> {name}");
    let begin = Instant::now();
    let (output, input) = std::io::pipe().context("make a pipe")?;
    run.stdin(Stdio::null()).stdout(input.try_clone().context("copy a pipe")?).stderr(input);
    let child = run.spawn().with_context(|| format!("run {name}"))?;
    // Closes our copies of the pipe's end.
    run.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let (status, text) = collect(child, &lines, begin + limit, follow)?;
    let mut reader = Reader::default();
    for line in &text {
        reader.line(line);
    }
    let success = status.is_some_and(|status| status.success());
    let (counts, reasons) = reader.finish(success);
    if counts.failed > 0 && !follow {
        for line in &text {
            println!("    {line}");
        }
    }
    match status {
        None => println!("    no end within {} s: killed", limit.as_secs()),
        Some(status) if !success => println!("    {status}"),
        Some(_) => {}
    }
    for reason in &reasons {
        println!("    skipped: {reason}");
    }
    println!("    {counts} ({:.1} s)", begin.elapsed().as_secs_f32());
    Ok(counts)
}

/// Reads until the child has ended, and a little longer for what is in the pipe; `None` if it had to be killed.
fn collect(
    mut child: Child,
    lines: &mpsc::Receiver<String>,
    deadline: Instant,
    follow: bool,
) -> Result<(Option<ExitStatus>, Vec<String>)> {
    let mut text = Vec::new();
    let mut take = |line: String| {
        if follow {
            println!("    {line}");
        }
        text.push(line);
    };
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => take(line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(5)),
        }
        if let Some(status) = child.try_wait().context("wait for a test executable")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().context("kill a test executable")?;
            child.wait().context("wait for a killed test executable")?;
            break None;
        }
    };
    // Somebody who outlives the tests may hold the pipe: do not wait for its end for ever.
    while let Ok(line) = lines.recv_timeout(Duration::from_millis(500)) {
        take(line);
    }
    Ok((status, text))
}

/// The examples in the documentation; cargo alone knows how to build them.
fn doc_tests(work: &Work, filter: Option<&str>) -> Result<Counts> {
    let args = ["test", "--workspace", "--doc", "--quiet", "--", "--show-output"];
    let mut cargo = build::cargo_command(work, &args);
    cargo.args(filter).env("PROTOC", host::find("protoc").unwrap_or_else(|| "protoc".into()));
    run_one("examples in the documentation", &mut cargo, UNIT_LIMIT, false)
}
