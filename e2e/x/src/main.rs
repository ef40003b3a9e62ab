//! cargo x: the developer command.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use holdfast_x::{
    bench,
    build::{self, Profile},
    chaos, check, critest, demo, fuzz, install, kind, peer, powercut,
    summary::Counts,
    test, upgrade, vm,
    work::Work,
};

/// The developer command of Holdfast.
#[derive(Debug, Parser)]
#[command(name = "cargo x", bin_name = "cargo x")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build everything and run the sample pod to its greeting.
    Demo,
    /// Build the three programs into target/debug, or target/release.
    Build {
        /// Optimised, as `cargo x install` has it.
        #[arg(long)]
        release: bool,
    },
    /// Build the three programs and put them, the systemd unit and the samples on
    /// this node.
    ///
    /// Files are replaced by rename: an agent that runs goes on as it is. What is in
    /// /etc already and is not ours stays, and ours comes beside it as *.new.
    #[command(verbatim_doc_comment)]
    Install(install::Options),
    /// Remove what `cargo x install` with the same options has put there.
    Uninstall(install::Options),
    /// Install what the tests need, build, and run them all.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
        /// Only the end-to-end tests.
        #[arg(long)]
        e2e: bool,
        /// Let the end-to-end tests drive a release build, as in `cargo x vm`.
        #[arg(long)]
        release: bool,
        /// Rounds of the tests that race with an attacker; the one of mount points goes 500 else.
        #[arg(long)]
        rounds: Option<u32>,
    },
    /// Run the end-to-end tests that any CRI runtime should pass against containerd,
    /// which is built from its Go module: a test of the tests.
    #[command(verbatim_doc_comment)]
    Peer {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Let faults happen while clients work, and count what is lost, wrong or left.
    ///
    /// Kills the agent at random moments under the churn of several clients, or lets
    /// one of many other faults happen; in the end an oracle asks the kernel for what
    /// is left. Everything random is decided by a seed, which is printed with the
    /// command that replays it. docs/reliability.md says what is checked.
    ///
    ///   cargo x chaos --kills 3000
    ///   cargo x chaos --peer --kills 100
    ///   cargo x chaos --fault all
    ///
    /// The exit code is 0 only if nothing of ours was lost, wrong or left.
    #[command(verbatim_doc_comment)]
    Chaos(chaos::Options),
    /// Cut the power of a disk at many moments of a run, and look what an agent makes
    /// of what is left.
    ///
    /// An agent pulls images and runs pods on a disk that logs its writes and flushes,
    /// on ext4 and on xfs. Then disks are made as they may be after a power cut, each
    /// with what was flushed by then and any part of the rest, and an agent is started
    /// on each. docs/reliability.md says what is checked.
    ///
    ///   cargo x powercut --cuts 2000
    ///
    /// The exit code is 0 only if nothing was wrong.
    #[command(verbatim_doc_comment)]
    Powercut(powercut::Options),
    /// Let agents of another revision and of this tree take over each other's pods, there
    /// and back: processes go on, all that is asked works, and in the end nothing is left.
    ///
    /// Builds the other revision's programs in a worktree under target/x/upgrade.
    #[command(verbatim_doc_comment)]
    Upgrade {
        /// The revision of the other programs.
        #[arg(long, default_value = upgrade::FROM)]
        from: String,
    },
    /// Run a kind cluster whose nodes run Holdfast.
    ///
    /// Builds a node image (Debian, kind's base files, Kubernetes from its Go modules,
    /// Holdfast in containerd's place), starts Docker of Debian's packages in namespaces
    /// of its own, and lets the unmodified kind create the cluster.
    #[command(verbatim_doc_comment)]
    Kind(kind::Options),
    /// Only what the tests need: packages, tools, images.
    Prepare,
    /// Run the end-to-end tests and critest in a virtual machine: Debian trixie,
    /// systemd, cgroup v2, AppArmor.
    #[command(verbatim_doc_comment)]
    Vm {
        /// Only tests whose name contains this, and no critest.
        filter: Option<String>,
        /// Only this part.
        #[arg(long, value_enum)]
        only: Option<vm::Part>,
    },
    /// Measure latencies, memory and exec streams, against an agent of its own and
    /// against containerd, which is built from its Go module.
    #[command(verbatim_doc_comment)]
    Bench {
        /// Leave containerd out; needs no Go.
        #[arg(long)]
        alone: bool,
        /// Measure how long a restart takes beside 100, 500 and 1,000 pods (containerd:
        /// 100), and nothing else.
        #[arg(long, verbatim_doc_comment)]
        restart: bool,
        /// Measure this program, such as /usr/local/bin/holdfast, and not a tree that
        /// `cargo x install` makes for the purpose.
        #[arg(long, verbatim_doc_comment)]
        program: Option<PathBuf>,
        /// Arguments of the benchmark client.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run critest, the conformance tests of CRI, against an agent of its own.
    ///
    /// Builds critest from its Go module and stand-ins for its images from Debian
    /// packages, and runs it with a registry and an agent that are gone afterwards.
    /// Ends with what passed, failed and was skipped, why, and where the log is;
    /// the exit code is 0 only if nothing failed.
    ///
    /// All arguments are critest's own, for example:
    ///   cargo x critest -ginkgo.focus=Streaming -websocket-exec
    ///   cargo x critest --parallel=4
    ///   cargo x critest -benchmark
    ///
    /// HOLDFAST_E2E_BIN=DIR tests the programs in DIR and no release build.
    #[command(verbatim_doc_comment)]
    Critest {
        /// Arguments of critest.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the fuzz targets, each for a while; installs cargo-fuzz in the target directory.
    Fuzz {
        /// Only this one.
        target: Option<String>,
        /// For each target.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// Format, lints, licences.
    Check,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let work = match &task {
        Task::Kind(kind::Options { prepared: Some(cache), .. }) => Work::prepared(cache),
        _ => Work::find()?,
    };
    match task {
        Task::Demo => demo::demo(&work)?,
        Task::Build { release } => {
            build::build(&work, if release { Profile::Release } else { Profile::Dev })?;
        }
        Task::Install(options) => install::install(&work, &options)?,
        Task::Uninstall(options) => install::uninstall(&work, &options)?,
        Task::Bench { alone, restart, program, args } => {
            bench::bench(&work, &bench::Options { alone, restart, program, args })?;
        }
        Task::Critest { args } => match critest::critest(&work, &args)? {},
        Task::Chaos(options) => return chaos::chaos(&work, &options),
        Task::Powercut(options) => return powercut::powercut(&work, &options),
        Task::Kind(options) => return Ok(verdict(kind::kind(&work, &options)?)),
        Task::Prepare => test::prepare(&work)?,
        Task::Fuzz { target, seconds } => fuzz::fuzz(&work, &fuzz::Options { target, seconds })?,
        Task::Check => check::check(&work)?,
        Task::Test { filter, e2e, release, rounds } => {
            return Ok(verdict(test::test(&work, &test::Options { filter, e2e, release, rounds })?));
        }
        Task::Peer { filter } => return Ok(verdict(peer::peer(&work, filter.as_deref())?)),
        Task::Upgrade { from } => return Ok(verdict(upgrade::upgrade(&work, &from)?)),
        Task::Vm { filter, only } => return Ok(verdict(vm::vm(&work, &vm::Options { filter, only })?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the last line.
fn verdict(counts: Counts) -> ExitCode {
    println!("{counts}");
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
