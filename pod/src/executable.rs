//! Starting our own programs from where nobody can write to them.
//!
//! A container that shares a pid namespace with a holder, or whose command is `/proc/self/exe`, finds our program's file
//! behind /proc/PID/exe (CVE-2019-5736). So it is run from a detached read-only copy of the mount that it lies on.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use holdfast_sys::clone::Child;
use holdfast_sys::error::CallError;
use holdfast_sys::spawn::{self, Command, SpawnError};
use holdfast_sys::{mount, proc};

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// Its path says not where it is.
    #[error("program {}: its path is not absolute, or has no name", .0.display())]
    Path(PathBuf),
    /// The read-only copy of its mount.
    #[error("mount program {} read-only", program.display())]
    Mount {
        /// The program.
        program: PathBuf,
        /// The call.
        #[source]
        source: CallError,
    },
    /// The start itself.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Starts `program`, an absolute path, without environment and with /dev/null for its output.
pub fn start(
    program: &Path,
    args: &[OsString],
    stdin: BorrowedFd<'_>,
    cwd: Option<BorrowedFd<'_>>,
) -> Result<Child, ExecutableError> {
    let dir = program.parent().filter(|dir| dir.is_absolute());
    let (Some(dir), Some(name)) = (dir, program.file_name()) else {
        return Err(ExecutableError::Path(program.to_owned()));
    };
    let failed = |source| ExecutableError::Mount { program: program.to_owned(), source };
    let copy = mount::copy_path(dir, false).map_err(failed)?;
    let read_only = mount::Change { set: mount::RDONLY, ..mount::Change::default() };
    mount::set_attributes(&copy, false, read_only).map_err(failed)?;
    let command =
        Command { program_dir: Some(copy.as_fd()), cwd, ..Command::new(Path::new(name), args, stdin) };
    Ok(spawn::spawn(&command)?)
}

/// A process that was found by its command line.
#[derive(Debug)]
pub struct Found {
    /// As our pid namespace numbers it.
    pub pid: i32,
    /// Clock ticks since boot (proc(5), stat field 22).
    pub start_time: u64,
    /// The process.
    pub pidfd: OwnedFd,
}

/// The processes of `program` whose arguments begin with `args`: for those whose record is lost. An id among the arguments
/// makes them nobody else's.
pub fn search(program: &Path, args: &[&str]) -> Vec<Found> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| has_command_line(*pid, program, args))
        .filter_map(|pid| {
            let start_time = proc::start_time(pid).ok()?;
            let pidfd = proc::open_identified(pid, start_time).ok()??;
            // Looked at again while its descriptor is open: the number means this process.
            has_command_line(pid, program, args).then_some(Found { pid, start_time, pidfd })
        })
        .collect()
}

fn has_command_line(pid: i32, program: &Path, args: &[&str]) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let named = words
        .next()
        .is_some_and(|first| Path::new(OsStr::from_bytes(first)).file_name() == program.file_name());
    named && args.iter().all(|arg| words.next() == Some(arg.as_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn a_process_is_found_by_what_it_was_started_with() {
        let unique = format!("holdfast-search-{}", std::process::id());
        let script = "read line";
        let mut child =
            Command::new("/bin/sh").args(["-c", script, &unique]).stdin(Stdio::piped()).spawn().unwrap();
        let pids = |program: &str, args: &[&str]| -> Vec<i32> {
            search(Path::new(program), args).iter().map(|found| found.pid).collect()
        };
        let pid = i32::try_from(child.id()).unwrap();
        // The kernel lets spawn return a moment before the new program has its command line.
        let end = Instant::now() + Duration::from_secs(10);
        while pids("/anywhere/sh", &["-c", script, &unique]).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(pids("/anywhere/sh", &["-c", script, &unique]), [pid]);
        assert!(pids("/bin/other", &["-c", script, &unique]).is_empty());
        assert!(pids("/bin/sh", &["-c", &unique]).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pids("/bin/sh", &["-c", script, &unique]).is_empty());
    }
}
