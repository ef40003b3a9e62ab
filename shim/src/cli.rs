//! The command line, and what a process does before it serves.

use std::process::ExitCode;

use holdfast_sys::process;

use crate::control;
use crate::fault::Cause;
use crate::stage::hooks::{Moment, later};

const HELP: &str = "\
holdfast-shim: runs one container of Holdfast. The agent starts it; it is of no use by hand.

Usage: holdfast-shim --id ID [--poststop]

  --id ID      the container's id
  --poststop   only run its poststop hooks: the shim that had it is gone
  --help       this text
  --version    the version

Descriptor 0 is a seqpacket socket to the agent, the working directory the container's run directory.
";

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let texts: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    match texts.as_slice() {
        ["--help" | "-h"] => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        ["--version" | "-V"] => {
            println!("holdfast-shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["--id", id] if texts.len() == arguments.len() && !id.is_empty() => serve(id),
        ["--id", id, "--poststop"] if texts.len() == arguments.len() && !id.is_empty() => poststop(id),
        _ => {
            eprint!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn serve(id: &str) -> ExitCode {
    if let Err(error) = holdfast_sys::failpoint::at("shim.start") {
        eprintln!("holdfast-shim {id}: {error}");
        return ExitCode::FAILURE;
    }
    // Whoever spawned us may have done this already, from a read-only mount. Without it we go on: a container that
    // runs as the host's root could then overwrite our file, so say it.
    let mut warnings = Vec::new();
    if !process::program_is_protected() {
        let again = std::env::var_os(AGAIN).is_none().then(|| process::run_again_protected(AGAIN));
        let why = again.map(|error| format!(": {}", error.text())).unwrap_or_default();
        warnings.push(format!("the shim's program can be written to from a container that can see it{why}"));
    }
    process::small_heap();
    // What our children make for others to open does not depend on the unit that the agent runs in.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match control::serve(warnings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holdfast-shim {id}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// For a container whose shim is gone: what the end of a container owes to the world outside.
fn poststop(id: &str) -> ExitCode {
    let failures = match std::env::current_dir() {
        Ok(bundle) => later::failures(id, &bundle, Moment::Poststop, None),
        Err(error) => vec![format!("look up the working directory: {error}")],
    };
    for failure in &failures {
        eprintln!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Set in the environment of the second run, so that there is never a third.
const AGAIN: &str = "HOLDFAST_SHIM_PROTECTED";
