//! Hooks of a container that runs, or has run: by a child of the shim, from the bundle's config.json. What fails is no
//! failure of the container (runtime-spec `runtime.md`, Lifecycle): it is told as a warning.

use std::fs;
use std::path::Path;

use holdfast_sys::process::{self, exit_now};
use oci_spec::runtime::Spec;
use rustix::process::Signal;

use super::one::{Place, run_each};
use super::{Moment, State, of};

/// Where the child says what went wrong, in the bundle.
pub const WARNINGS: &str = "hook-warnings";

/// Runs them, writes what went wrong, and ends.
pub fn run(id: &str, bundle: &Path, moment: Moment, pid: Option<i32>) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The container's pipes: who reads them waits for their end.
    let _ = process::close_all_but(&mut [0, 1, 2]);
    let warnings = failures(id, bundle, moment, pid);
    if warnings.is_empty() {
        exit_now(0);
    }
    let _ = fs::write(bundle.join(WARNINGS), warnings.join("\n"));
    exit_now(1)
}

/// Runs them, and returns what went wrong.
pub fn failures(id: &str, bundle: &Path, moment: Moment, pid: Option<i32>) -> Vec<String> {
    let spec = match read(bundle) {
        Ok(spec) => spec,
        Err(error) => return vec![format!("{} hooks: read config.json: {error}", moment.name())],
    };
    let state = State::at(moment, &spec, id, bundle);
    let state = if let Some(pid) = pid { state.with_pid(pid) } else { state };
    let failures = run_each(of(&spec, moment), moment, &state, Place { directory: bundle, peer: None });
    failures.iter().map(ToString::to_string).collect()
}

fn read(bundle: &Path) -> std::io::Result<Spec> {
    let bytes = fs::read(bundle.join("config.json"))?;
    serde_json::from_slice(&bytes).map_err(Into::into)
}
