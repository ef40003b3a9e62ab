//! Starting our own programs from where nobody can write to them.
//!
//! A container that shares a pid namespace with a holder, or whose command is `/proc/self/exe`, finds our program's file
//! behind /proc/PID/exe (CVE-2019-5736). So it is run from a detached read-only copy of the mount that it lies on.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use holdfast_sys::clone::Child;
use holdfast_sys::error::CallError;
use holdfast_sys::mount;
use holdfast_sys::spawn::{self, Command, SpawnError};

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
