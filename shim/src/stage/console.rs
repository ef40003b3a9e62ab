//! Descriptors 0, 1 and 2, and the terminal behind them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use holdfast_pod::protocol::ResolvedUser;
use holdfast_sys::mount;
use holdfast_sys::path::{Kind, Root};
use holdfast_sys::tty::{self, Terminal};
use oci_spec::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags, Uid, fstat, openat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::mounts::Made;
use super::{Plan, Stdio};
use crate::fault::{OrFail, Result, invalid};

const STAGE: &str = "make terminal";

/// Makes a terminal in the container's own devpts, and shows it as /dev/console.
pub fn make(plan: &Plan<'_>, process: &Process, root: &Root, made: &Made) -> Result<Option<Terminal>> {
    if !matches!(plan.stdio, Stdio::Terminal) {
        return Ok(None);
    }
    let devpts = made.devpts.as_ref().ok_or_else(|| invalid(STAGE, "the spec mounts no devpts"))?;
    let terminal = tty::open_in(devpts).or_fail(STAGE)?;
    if let Some(size) = process.console_size().as_ref().filter(|size| size.width() > 0) {
        tty::resize(&terminal.master, size.width() as u16, size.height() as u16).or_fail(STAGE)?;
    }
    let copy = mount::copy_tree(terminal.slave.as_fd(), Path::new(""), false).or_fail(STAGE)?;
    let target = root.ensure(Path::new("/dev/console"), Kind::File).or_fail(STAGE)?;
    mount::attach(copy, target).or_fail("mount /dev/console")?;
    Ok(Some(terminal))
}

/// Opens the terminal once more, in the root that is ours now: with hooks that has a copy of every mount, and on the
/// mount that it was opened on before the terminal would have no name for ttyname(3).
pub fn open_again(terminal: &mut Terminal) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(devpts) = openat(CWD, "/dev/pts", flags, Mode::empty()) else { return Ok(()) };
    let device = |fd: &OwnedFd| fstat(fd).map(|stat| stat.st_dev).or_fail(STAGE);
    // The spec has it elsewhere, or something else lies there now.
    if device(&devpts)? != device(&terminal.slave)? {
        return Ok(());
    }
    terminal.slave = tty::peer_in(&devpts, &terminal.master).or_fail(STAGE)?;
    Ok(())
}

/// Begins a session, and puts stdio where the command expects it.
pub fn take_stdio(stdio: &Stdio, terminal: Option<&Terminal>, user: &ResolvedUser) -> Result<()> {
    match (stdio, terminal) {
        (Stdio::Three(three), _) => take_three(three),
        (Stdio::Terminal, Some(terminal)) => take_terminal(&terminal.slave, user.uid),
        (Stdio::Terminal, None) => Err(invalid(STAGE, "there is none")),
    }
}

/// A session, and three descriptors; what is missing stays the null device that it is by now.
pub fn take_three([stdin, stdout, stderr]: &[Option<OwnedFd>; 3]) -> Result<()> {
    new_session()?;
    duplicate(stdin.as_ref(), stdout.as_ref(), stderr.as_ref())
}

/// A session whose controlling terminal it is, owned by the user.
pub fn take_terminal(slave: &OwnedFd, uid: u32) -> Result<()> {
    new_session()?;
    // Not fatal: the terminal may come from a devpts that is not this user namespace's.
    let _ = rustix::fs::fchown(slave, Some(Uid::from_raw(uid)), None);
    let _ = rustix::fs::fchmod(slave, Mode::from_raw_mode(0o620));
    tty::control(slave).or_fail("make the terminal the controlling one")?;
    duplicate(Some(slave), Some(slave), Some(slave))
}

fn new_session() -> Result<()> {
    rustix::process::setsid().or_fail("begin a session").map(drop)
}

fn duplicate(stdin: Option<&OwnedFd>, stdout: Option<&OwnedFd>, stderr: Option<&OwnedFd>) -> Result<()> {
    const STAGE: &str = "set up stdio";
    stdin.map_or(Ok(()), dup2_stdin).or_fail(STAGE)?;
    stdout.map_or(Ok(()), dup2_stdout).or_fail(STAGE)?;
    stderr.map_or(Ok(()), dup2_stderr).or_fail(STAGE)
}
