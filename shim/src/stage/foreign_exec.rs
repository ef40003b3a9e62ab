//! A further process in a container of another OCI runtime: what the child does that becomes the runtime's `exec`.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use holdfast_pod::oci_runtime::OciRuntime;

use super::bundle::fit;
use super::runtime::become_runtime;
use super::{Stdio, end, launch};
use crate::fault::{OrFail, Result, internal};

/// Names of an exec's files in the bundle.
#[derive(Debug, Clone)]
pub struct Names {
    /// `oci_spec::runtime::Process` as JSON.
    pub process: String,
    /// Where the runtime writes the process's pid.
    pub pid: String,
    /// The runtime's log.
    pub log: String,
    /// Where it connects to with the terminal.
    pub console: String,
}

impl Names {
    /// Those of the exec of that number.
    pub fn of(serial: u32) -> Self {
        let name = |extension| format!("exec-{serial}.{extension}");
        Self { process: name("json"), pid: name("pid"), log: name("log"), console: name("sock") }
    }

    /// All of them.
    pub fn all(&self) -> [&str; 4] {
        [&self.process, &self.pid, &self.log, &self.console]
    }
}

/// All that the child is given.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The runtime.
    pub runtime: &'a OciRuntime,
    /// The container's id.
    pub id: &'a str,
    /// The bundle.
    pub bundle: &'a Path,
    /// Files in it.
    pub names: &'a Names,
    /// [`holdfast_pod::launch::ExecLaunch`].
    pub process: BorrowedFd<'a>,
    /// The process's stdio.
    pub stdio: &'a Stdio,
    /// Our end of the link.
    pub link: BorrowedFd<'a>,
}

/// Writes the process and becomes the runtime's `exec`.
pub fn run(plan: &Plan<'_>) -> ! {
    end(plan.link, None, outside(plan))
}

fn outside(plan: &Plan<'_>) -> Result<()> {
    const STAGE: &str = "write the process of an exec";
    let mut process = launch::read_exec(plan.process)?.process;
    // Its warnings were the container's already.
    fit::fit(&mut process)?;
    let bytes = serde_json::to_vec(&process).map_err(|e| internal(STAGE, e.to_string()))?;
    let path = |name: &str| plan.bundle.join(name);
    fs::write(path(&plan.names.process), bytes).or_fail(STAGE)?;
    let mut arguments = plan.runtime.arguments(&path(&plan.names.log), ["exec", "--detach", "--process"]);
    arguments.push(path(&plan.names.process).into());
    arguments.extend(["--pid-file".into(), path(&plan.names.pid).into()]);
    let stdio = match plan.stdio {
        Stdio::Three(three) => Some(three),
        Stdio::Terminal => {
            // Relative to the bundle, where we are: a socket's path has room for 107 bytes only.
            arguments.extend(["--console-socket".into(), plan.names.console.clone().into()]);
            None
        }
    };
    arguments.push(plan.id.into());
    Err(become_runtime(plan.runtime, arguments, plan.bundle, stdio, Some(plan.link)))
}
