//! Running hooks: each is told the state, has a limit of time, and is killed with what it started when that is over.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_pod::protocol::{Failure, FaultKind};
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::pidfd::{self, Exit};
use holdfast_sys::process::{self, Program, exit_now};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::{Moment, State};
use crate::fault::{OrFail, Result, failure, internal};

/// For a hook that names no limit: the operation that it is part of has one of its own.
const DEFAULT_LIMIT: Duration = Duration::from_mins(1);
/// How much of what a hook says is kept, from the end.
const KEPT: usize = 2048;
/// What an environment holds that names none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code of a hook that could not be run, as a shell has it.
const NOT_RUN: i32 = 127;

/// Where hooks run, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Their working directory.
    pub directory: &'a Path,
    /// Whoever waits for them: its end ends them.
    pub peer: Option<BorrowedFd<'a>>,
}

/// Runs them one after the other; the first that fails is the last.
pub fn run_all(hooks: &[Hook], moment: Moment, state: &State<'_>, place: Place<'_>) -> Result<()> {
    hooks.iter().try_for_each(|hook| run(hook, moment, state, place))
}

/// Runs all of them, whatever becomes of one.
pub fn run_each(hooks: &[Hook], moment: Moment, state: &State<'_>, place: Place<'_>) -> Vec<Failure> {
    hooks.iter().filter_map(|hook| run(hook, moment, state, place).err()).collect()
}

fn run(hook: &Hook, moment: Moment, state: &State<'_>, place: Place<'_>) -> Result<()> {
    let stage = format!("{} hook {}", moment.name(), hook.path().display());
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let limit = limit.map_or(DEFAULT_LIMIT, Duration::from_secs);
    let program = program(hook, &stage)?;
    let stdin = told(state, &stage)?;
    let (output, end) = pipe_with(PipeFlags::CLOEXEC).or_fail(&stage)?;
    rustix::io::ioctl_fionbio(&output, true).or_fail(&stage)?;
    let child = match fork(Birth::default()).or_fail(&stage)? {
        Forked::Parent(child) => child,
        Forked::Child => become_hook(hook.path(), &program, place.directory, &stdin, &end),
    };
    drop((stdin, end));
    let mut said = Said::default();
    let ended = wait(&child, &output, place.peer, limit, &mut said);
    if !ended {
        // It leads a session of its own, so its children go with it.
        process::kill_group(child.pid);
        let _ = pidfd::kill(&child.pidfd);
        let _ = pidfd::wait_exit(&child.pidfd, Duration::from_secs(5));
    }
    let exit = pidfd::reap(&child.pidfd).or_fail(&stage)?;
    said.read(&output);
    match exit {
        Some(Exit::Code(0)) => Ok(()),
        _ if !ended => {
            let text = format!("it did not end within {} s and was killed{}", limit.as_secs(), said.text());
            Err(failure(FaultKind::Timeout, &stage, 0, text))
        }
        Some(exit) => Err(internal(&stage, format!("{exit}{}", said.text()))),
        None => Err(internal(&stage, "it does not end")),
    }
}

fn program(hook: &Hook, stage: &str) -> Result<Program> {
    let zero = |_| internal(stage, "an argument or variable has a zero byte");
    let strings = |all: Vec<Vec<u8>>| {
        all.into_iter().map(CString::new).collect::<std::result::Result<Vec<_>, _>>().map_err(zero)
    };
    let bytes = |list: &[String]| list.iter().map(|one| one.clone().into_bytes()).collect::<Vec<_>>();
    let path = hook.path().as_os_str().as_bytes().to_vec();
    let arguments = hook.args().as_deref().filter(|args| !args.is_empty()).map_or(vec![path], bytes);
    let environment = hook.env().as_deref().map_or_else(|| vec![PATH.as_bytes().to_vec()], bytes);
    Ok(Program::new(strings(arguments)?, strings(environment)?))
}

/// The state as a file, which no hook that does not read it can make us wait for.
fn told(state: &State<'_>, stage: &str) -> Result<OwnedFd> {
    let text = serde_json::to_vec(state).map_err(|e| internal(stage, e.to_string()))?;
    let memory =
        rustix::fs::memfd_create("holdfast-state", rustix::fs::MemfdFlags::CLOEXEC).or_fail(stage)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&text).or_fail(stage)?;
    std::io::Seek::rewind(&mut file).or_fail(stage)?;
    Ok(file.into())
}

/// Waits for its end; `false`: its time is over, or whoever waits for it is gone.
fn wait(
    child: &Child,
    output: &OwnedFd,
    peer: Option<BorrowedFd<'_>>,
    limit: Duration,
    said: &mut Said,
) -> bool {
    let end = Instant::now() + limit;
    let mut reading = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        // No events: its end is told in any case.
        fds.extend(peer.iter().map(|peer| PollFd::from_borrowed_fd(*peer, PollFlags::empty())));
        if reading {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => {}
        }
        let is = |at: usize, flags: PollFlags| fds.get(at).is_some_and(|fd| fd.revents().intersects(flags));
        if is(0, PollFlags::IN) {
            return true;
        }
        if left.is_zero() || peer.is_some() && is(1, PollFlags::HUP | PollFlags::ERR) {
            return false;
        }
        reading = reading && said.read(output);
    }
}

/// The end of what a hook has said.
#[derive(Debug, Default)]
struct Said(Vec<u8>);

impl Said {
    /// Reads what there is; `false`: nothing will follow.
    fn read(&mut self, output: &OwnedFd) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match rustix::io::read(output, &mut chunk) {
                Ok(0) => return false,
                Ok(len) => {
                    self.0.extend_from_slice(&chunk[..len]);
                    let much = self.0.len().saturating_sub(KEPT);
                    self.0.drain(..much);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }

    fn text(&self) -> String {
        match String::from_utf8_lossy(&self.0).trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }
}

fn become_hook(path: &Path, program: &Program, directory: &Path, stdin: &OwnedFd, output: &OwnedFd) -> ! {
    let prepared = || -> rustix::io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::process::chdir(directory)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(output)
    };
    let errno = match (prepared(), CString::new(path.as_os_str().as_bytes())) {
        (Err(errno), _) => errno,
        (_, Err(_)) => Errno::INVAL,
        (Ok(()), Ok(path)) => {
            process::reset_signals();
            // Stages have none, for the modes of what they make.
            rustix::process::umask(Mode::from_raw_mode(0o022));
            let _ = process::close_all_but(&mut [0, 1, 2]);
            program.run(&path)
        }
    };
    let text = format!("it cannot be run: {}", std::io::Error::from(errno));
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    exit_now(NOT_RUN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = Hook::default();
        hook.set_path(PathBuf::from("/bin/sh"));
        hook.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        hook.set_timeout(timeout);
        hook
    }

    fn run_one(hook: Hook) -> Result<()> {
        let spec = oci_spec::runtime::Spec::default();
        let state = State::at(Moment::CreateRuntime, &spec, "c1", Path::new("/run/c1")).with_pid(42);
        let place = Place { directory: Path::new("/"), peer: None };
        run_all(&[hook], Moment::CreateRuntime, &state, place)
    }

    #[test]
    fn it_reads_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        run_one(hook(&format!("cat > {}", file.display()), None)).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(
            (state["id"].as_str(), state["status"].as_str(), state["pid"].as_i64(), state["bundle"].as_str()),
            (Some("c1"), Some("creating"), Some(42), Some("/run/c1"))
        );
        assert!(state["annotations"].is_object() && state["ociVersion"].is_string());
    }

    #[test]
    fn a_failure_has_its_path_its_code_and_its_last_words() {
        let error = run_one(hook("echo said; echo why >&2; exit 3", None)).unwrap_err();
        assert_eq!(error.to_string(), "createRuntime hook /bin/sh: exit code 3: said\nwhy");
        let mut missing = Hook::default();
        missing.set_path("/no/such/hook".into());
        let error = run_one(missing).unwrap_err().to_string();
        assert!(error.contains("/no/such/hook") && error.contains("cannot be run"), "{error}");
        // Far more than a pipe holds.
        let error = run_one(hook("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", None)).unwrap_err();
        assert!(error.text.len() < KEPT + 100 && error.text.ends_with("xxx"));
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_its_children() {
        let begin = Instant::now();
        let error = run_one(hook("sleep 600 & sleep 600", Some(1))).unwrap_err();
        assert_eq!(error.kind, FaultKind::Timeout);
        assert!(begin.elapsed() < Duration::from_secs(30), "{error}");
    }

    #[test]
    fn it_ends_with_whoever_waits_for_it() {
        let (ours, theirs) = holdfast_sys::socket::pair().unwrap();
        let spec = oci_spec::runtime::Spec::default();
        let state = State::at(Moment::CreateRuntime, &spec, "c1", Path::new("/"));
        drop(theirs);
        let place = Place { directory: Path::new("/"), peer: Some(ours.as_fd()) };
        let begin = Instant::now();
        let hooks = [hook("sleep 600", None)];
        assert!(run_all(&hooks, Moment::CreateRuntime, &state, place).is_err());
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
