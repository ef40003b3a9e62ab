//! `holdfast-powercut`: what `cargo x powercut` runs.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use holdfast_powercut::{
    device::{self, FileSystem},
    lie::{self, Lie},
    record::{Plan, Recording},
    replay::{Selection, play, play_in_parts},
    report::Report,
    site,
};

/// Cuts the power of a disk at many moments of a run, and looks what an agent makes of what is left.
#[derive(Debug, Parser)]
#[command(name = "cargo x powercut", bin_name = "cargo x powercut", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Args)]
struct Run {
    /// Cuts for each file system.
    #[arg(long, default_value_t = 200)]
    cuts: usize,
    /// Decides what is done, when the power goes and what the disk keeps; another one each time if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this one.
    #[arg(long)]
    file_system: Option<FileSystem>,
    /// Length of the recorded run, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Play only this cut, of the recording that is there.
    #[arg(long, requires = "seed", requires = "file_system")]
    cut: Option<usize>,
    /// Cuts that are played at the same time.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Directory of the recordings.
    #[arg(long, default_value = "target/x/powercut")]
    recordings: PathBuf,
    /// A test of the test: these calls succeed without doing anything while the run is recorded.
    #[arg(long)]
    lie: Option<Lie>,
}

/// Child processes that this program starts from its own executable.
#[derive(Debug, Subcommand)]
enum Part {
    /// An agent that is lied to.
    #[command(hide = true)]
    Lie {
        lie: Lie,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Plays a part of the cuts, and prints what came of it.
    #[command(hide = true)]
    Play {
        dir: PathBuf,
        #[arg(long)]
        kind: FileSystem,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        cuts: usize,
        #[arg(long)]
        part: usize,
        #[arg(long)]
        parts: usize,
    },
}

fn main() -> ExitCode {
    let Arguments { run, part } = Arguments::parse();
    let clean = match part {
        None => all(&run),
        Some(Part::Lie { lie, command }) => lie::run(lie, &command).map(|never| match never {}),
        Some(Part::Play { dir, kind, seed, cuts, part, parts }) => {
            one_part(&Selection { dir, kind, seed, cuts, only: None }, part, parts)
        }
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo x powercut: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it to its end on this thread, which alone is in the namespaces of its own.
fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("make a runtime")?.block_on(work)
}

fn one_part(selection: &Selection, part: usize, parts: usize) -> Result<bool> {
    site::enter()?;
    let outcome = wait(Box::pin(play(selection, part, parts)))?;
    serde_json::to_writer(std::io::stdout(), &outcome).context("print an outcome")?;
    Ok(true)
}

/// Whether nothing was wrong.
fn all(run: &Run) -> Result<bool> {
    if let Some(reason) = device::missing()? {
        bail!("power cuts need a disk that logs: {reason}");
    }
    site::enter()?;
    let seed = run.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let mut reports = Vec::new();
    for kind in FileSystem::ALL {
        if run.file_system.is_none_or(|only| only == kind) {
            reports.push(on(run, kind, seed)?);
        }
    }
    println!();
    for report in &reports {
        println!("{report}");
    }
    Ok(reports.iter().all(Report::is_clean))
}

fn on(run: &Run, kind: FileSystem, seed: u64) -> Result<Report> {
    let (dir, name) = (run.recordings.join(kind.name()), kind.name());
    if run.cut.is_none() {
        println!("==> {name}: recording for {} s, seed {seed}", run.seconds);
        let plan = Plan { kind, seed, duration: Duration::from_secs(run.seconds), lie: run.lie };
        wait(Box::pin(Recording::make(&dir, &plan)))?;
        println!("==> {name}: {} cuts", run.cuts);
    }
    let selection = Selection { dir, kind, seed, cuts: run.cuts, only: run.cut };
    let begin = Instant::now();
    let outcome = match run.cut {
        None => play_in_parts(&selection, run.parallel)?,
        Some(_) => wait(Box::pin(play(&selection, 0, 1)))?,
    };
    let report = Report::new(&selection, outcome, begin.elapsed().as_secs_f64())?;
    for failure in &report.outcome.failures {
        println!("replay: cargo x powercut --file-system {name} --seed {seed} --cut {}", failure.number);
    }
    Ok(report)
}
