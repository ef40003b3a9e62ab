//! Starting a program from a process with many threads and a large heap.
//!
//! A plain fork copies the page tables (7 ms at 256 MiB). Here the child runs in the parent's memory on a stack of its
//! own while the calling thread stands still (`CLONE_VM | CLONE_VFORK`), until it has called execve or failed; the
//! child is known by a pidfd from its first moment. It becomes the leader of a session of its own, so that a
//! terminal's Ctrl-C at the parent does not reach it, and has exactly three descriptors.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use crate::clone::Child;
use crate::failpoint;
use crate::pidfd;

/// What to start, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The program. Relative to `program_dir` if that is given.
    pub program: &'a Path,
    /// Where the program is looked up, e.g. a directory on a read-only mount; `None`: the parent's.
    pub program_dir: Option<BorrowedFd<'a>>,
    /// Arguments after the program's name.
    pub args: &'a [OsString],
    /// All of its environment, as `NAME=value`.
    pub env: &'a [OsString],
    /// Its descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Its descriptor 1; `None`: /dev/null.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Its descriptor 2; `None`: /dev/null.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Its working directory; `None`: the parent's.
    pub cwd: Option<BorrowedFd<'a>>,
}

impl<'a> Command<'a> {
    /// A program without environment, with /dev/null for its output, in the parent's working directory.
    pub fn new(program: &'a Path, args: &'a [OsString], stdin: BorrowedFd<'a>) -> Self {
        Self { program, program_dir: None, args, env: &[], stdin, stdout: None, stderr: None, cwd: None }
    }
}

/// Why a program was not started. No child is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// An argument, path or variable has a zero byte.
    #[error("start {}: a zero byte in {what:?}", program.display())]
    ZeroByte {
        /// The program.
        program: PathBuf,
        /// Where.
        what: OsString,
    },
    /// Something before the child.
    #[error("start {}: {call}", program.display())]
    Prepare {
        /// The program.
        program: PathBuf,
        /// The call.
        call: &'static str,
        /// The errno.
        #[source]
        errno: io::Error,
    },
    /// Something in the child; `execveat` with ENOENT: the program is not there.
    #[error("start {}: {call} in the child", program.display())]
    Child {
        /// The program.
        program: PathBuf,
        /// The call.
        call: &'static str,
        /// The errno.
        #[source]
        errno: io::Error,
    },
}

/// Starts a program. Returns when it runs: what it does then is its own affair, that it could not run is the error. The child
/// leads a session and a process group that have its pid.
pub fn spawn(command: &Command<'_>) -> Result<Child, SpawnError> {
    let prepare = |call| {
        move |errno: io::Error| SpawnError::Prepare { program: command.program.to_owned(), call, errno }
    };
    failpoint::at("sys.spawn").map_err(prepare("clone"))?;
    let strings = Strings::new(command)?;
    let null = open_null().map_err(prepare("open /dev/null"))?;
    let stdin = above_stdio(command.stdin).map_err(prepare("fcntl(F_DUPFD_CLOEXEC) of stdin"))?;
    let stdout = above_stdio(command.stdout.unwrap_or(null.as_fd()))
        .map_err(prepare("fcntl(F_DUPFD_CLOEXEC) of stdout"))?;
    let stderr = above_stdio(command.stderr.unwrap_or(null.as_fd()))
        .map_err(prepare("fcntl(F_DUPFD_CLOEXEC) of stderr"))?;
    let (argv, envp) = (pointers(&strings.args), pointers(&strings.env));
    let mut plan = Plan {
        program: strings.program.as_ptr(),
        program_dir: command.program_dir.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd()),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        stdio: [stdin.fd(), stdout.fd(), stderr.fd()],
        cwd: command.cwd.map_or(-1, |fd| fd.as_raw_fd()),
        failure: None,
    };
    let child = clone_and_wait_for_exec(&mut plan).map_err(prepare("clone"))?;
    let Some((call, errno)) = plan.failure else {
        return Ok(child);
    };
    // It has called _exit: only to reap it is left.
    if pidfd::wait_exit(&child.pidfd, Duration::from_secs(1)).is_ok() {
        // ECHILD where the process ignores SIGCHLD: the kernel has reaped it.
        let _ = pidfd::reap(&child.pidfd);
    }
    let errno = io::Error::from_raw_os_error(errno);
    Err(SpawnError::Child { program: command.program.to_owned(), call, errno })
}

/// What the child does, as plain numbers and pointers: it may not allocate.
struct Plan {
    program: *const c_char,
    program_dir: RawFd,
    argv: *const *const c_char,
    envp: *const *const c_char,
    stdio: [RawFd; 3],
    cwd: RawFd,
    /// Written by the child, in the memory that it shares with us.
    failure: Option<(&'static str, c_int)>,
}

fn clone_and_wait_for_exec(plan: &mut Plan) -> io::Result<Child> {
    const STACK_BYTES: usize = 32 * 1024;
    // u128 for the alignment that the ABIs want of a stack.
    let mut stack: Vec<MaybeUninit<u128>> = vec![MaybeUninit::uninit(); STACK_BYTES / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    // No handler of ours may run in the child, on this small stack and in our memory.
    let mask = set_signal_mask(u64::MAX);
    // SAFETY: `top` is the end of a block that outlives the child's use of it (CLONE_VFORK returns after exec or
    // exit), `plan` likewise; `child` fits the callback type, never returns and allocates nothing.
    let pid = unsafe { libc::clone(child, top, flags, ptr::from_mut(plan).cast(), &raw mut pidfd) };
    let error = io::Error::last_os_error();
    set_signal_mask(mask);
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor there, which nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Runs in the parent's memory on a stack of its own, all signals blocked.
extern "C" fn child(plan: *mut c_void) -> c_int {
    const EXIT_CODE: c_int = 127;
    // SAFETY: the parent passes its Plan and stands still until we are gone.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    if let Err(call) = run(plan) {
        plan.failure = Some((call, io::Error::last_os_error().raw_os_error().unwrap_or(0)));
    }
    // SAFETY: ends this process only; no handler of the parent's runs.
    unsafe { libc::_exit(EXIT_CODE) }
}

/// Returns only with the name of the call that failed.
fn run(plan: &Plan) -> Result<(), &'static str> {
    const HIGHEST_SIGNAL: c_int = 64;
    // The kernel's struct sigaction, all zero: SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 4];
    for signal in 1..=HIGHEST_SIGNAL {
        // An ignored signal stays ignored over exec, as SIGPIPE is in a Rust program. The plain call, since libc's
        // refuses the two that it keeps for itself. SIGKILL and SIGSTOP refuse: right so.
        let (new, old) = (default.as_ptr(), ptr::null_mut::<u64>());
        // SAFETY: `default` is as long as the structure; the table is the child's own (no CLONE_SIGHAND).
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, size_of::<u64>()) };
    }
    // SAFETY: no memory involved.
    check(unsafe { libc::setsid() }, "setsid")?;
    if plan.cwd >= 0 {
        // SAFETY: no memory involved.
        check(unsafe { libc::fchdir(plan.cwd) }, "fchdir")?;
    }
    for (target, source) in (0..).zip(plan.stdio) {
        // SAFETY: no memory involved; the descriptor table is our own (no CLONE_FILES), sources lie above 2.
        check(unsafe { libc::dup2(source, target) }, "dup2")?;
    }
    let cloexec = libc::CLOSE_RANGE_CLOEXEC as c_int;
    // SAFETY: marks descriptors of our own table.
    check(unsafe { libc::close_range(3, u32::MAX, cloexec) }, "close_range")?;
    set_signal_mask(0);
    // SAFETY: the strings and the null-ended arrays live in the parent, which stands still.
    unsafe { libc::syscall(libc::SYS_execveat, plan.program_dir, plan.program, plan.argv, plan.envp, 0) };
    Err("execveat")
}

fn check(result: c_int, call: &'static str) -> Result<(), &'static str> {
    if result < 0 { Err(call) } else { Ok(()) }
}

/// Replaces the thread's signal mask and returns the old one. The plain call, since libc's leaves its own two signals
/// out.
fn set_signal_mask(mask: u64) -> u64 {
    let mut old: u64 = 0;
    let (how, new) = (libc::SIG_SETMASK, &raw const mask);
    // SAFETY: both masks are of the size that is named, 8 bytes. It cannot fail with these arguments.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, &raw mut old, size_of::<u64>()) };
    old
}

/// The command's strings, each ending in a zero byte.
struct Strings {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Strings {
    fn new(command: &Command<'_>) -> Result<Self, SpawnError> {
        let string = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| SpawnError::ZeroByte {
                program: command.program.to_owned(),
                what: text.to_owned(),
            })
        };
        let program = string(command.program.as_os_str())?;
        let args = command.args.iter().map(|arg| string(arg));
        let args = std::iter::once(Ok(program.clone())).chain(args).collect::<Result<_, _>>()?;
        #[cfg_attr(not(feature = "failpoints"), expect(unused_mut, reason = "nothing is added"))]
        let mut env: Vec<CString> =
            command.env.iter().map(|variable| string(variable)).collect::<Result<_, _>>()?;
        #[cfg(feature = "failpoints")]
        if let Some(variable) = crate::failpoint::environment() {
            env.push(string(&variable)?);
        }
        Ok(Self { program, args, env })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let of = |string: &CString| CStr::as_ptr(string);
    strings.iter().map(of).chain(std::iter::once(ptr::null())).collect()
}

/// A descriptor above 2, so that putting one into its place overwrites none of the others.
enum Source<'a> {
    Given(BorrowedFd<'a>),
    Moved(OwnedFd),
}

impl Source<'_> {
    fn fd(&self) -> RawFd {
        match self {
            Self::Given(fd) => fd.as_raw_fd(),
            Self::Moved(fd) => fd.as_raw_fd(),
        }
    }
}

fn above_stdio(fd: BorrowedFd<'_>) -> io::Result<Source<'_>> {
    const FIRST: RawFd = 3;
    if fd.as_raw_fd() >= FIRST {
        return Ok(Source::Given(fd));
    }
    Ok(Source::Moved(rustix::io::fcntl_dupfd_cloexec(fd, FIRST)?))
}

fn open_null() -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pidfd::Exit;
    use std::fs::File;
    use std::io::Read;
    use std::process::Stdio;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Runs a command and returns what it wrote and how it ended.
    fn output(command: &Command<'_>) -> (String, Exit) {
        let (mut reader, writer) = io::pipe().unwrap();
        let child = spawn(&Command { stdout: Some(writer.as_fd()), ..*command }).unwrap();
        drop(writer);
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        assert!(pidfd::wait_exit(&child.pidfd, LIMIT).unwrap());
        (output, pidfd::reap(&child.pidfd).unwrap().unwrap())
    }

    fn script(text: &str) -> [OsString; 2] {
        ["-c".into(), text.into()]
    }

    #[test]
    fn a_program_runs_with_what_it_was_given() {
        let env = ["A=1".into(), "PATH=/bin:/usr/bin".into()];
        let (root, null) = (File::open("/").unwrap(), File::open("/dev/null").unwrap());
        let args = script("echo $A $0 $(pwd); ls /proc/$$/fd; exit 3");
        let command = Command::new(Path::new("/bin/sh"), &args, null.as_fd());
        let (output, exit) = output(&Command { env: &env, cwd: Some(root.as_fd()), ..command });
        assert_eq!(output, "1 /bin/sh /\n0\n1\n2\n");
        assert_eq!(exit, Exit::Code(3));
    }

    #[test]
    fn it_is_alone_in_its_session_with_default_signals() {
        let null = File::open("/dev/null").unwrap();
        let args = script(
            "read line < /proc/$$/stat; echo $line
            while read line; do case $line in Sig*) echo $line;; esac; done < /proc/$$/status",
        );
        let (output, exit) = output(&Command::new(Path::new("/bin/sh"), &args, null.as_fd()));
        let fields: Vec<&str> = output.split_whitespace().collect();
        let (pid, group, session) = (fields[0], fields[4], fields[5]);
        assert_eq!((group, session), (pid, pid), "{output}");
        for mask in ["SigBlk:", "SigIgn:"] {
            let at = fields.iter().position(|field| *field == mask).unwrap();
            assert_eq!(fields[at + 1], "0000000000000000", "{output}");
        }
        assert_eq!(exit, Exit::Code(0));
    }

    #[test]
    fn descriptors_of_stdio_may_be_any() {
        // Only in a process whose descriptors nobody else uses: one that runs just this test.
        if std::env::var_os("HOLDFAST_TEST_STDIO").is_none() {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "spawn::tests::descriptors_of_stdio_may_be_any", "--test-threads=1"])
                .env("HOLDFAST_TEST_STDIO", "1")
                .stdin(File::open("/proc/self/status").unwrap())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        // stdin is our 1 and stderr our 0: a plain row of dup2 would lose one of them.
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let args = script("readlink /proc/$$/fd/0; readlink /proc/$$/fd/2");
        let command = Command::new(Path::new("/bin/sh"), &args, stdout.as_fd());
        let (output, _) = output(&Command { stderr: Some(stdin.as_fd()), ..command });
        assert!(output.starts_with("/dev/null\n/proc/"), "{output}");
    }

    #[test]
    fn what_cannot_run_is_said_exactly_and_leaves_no_child() {
        let null = File::open("/dev/null").unwrap();
        let try_to = |program: &str, cwd: Option<BorrowedFd<'_>>| {
            let command = Command::new(Path::new(program), &[], null.as_fd());
            match spawn(&Command { cwd, ..command }).unwrap_err() {
                SpawnError::Child { call, errno, .. } => (call, errno.raw_os_error()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(try_to("/not/there", None), ("execveat", Some(libc::ENOENT)));
        assert_eq!(try_to("/etc/passwd", None), ("execveat", Some(libc::EACCES)));
        assert_eq!(try_to("/", None), ("execveat", Some(libc::EACCES)));
        assert_eq!(try_to("/bin/true", Some(null.as_fd())), ("fchdir", Some(libc::ENOTDIR)));
    }

    #[test]
    fn zero_bytes_are_refused() {
        let null = File::open("/dev/null").unwrap();
        let args = ["a\0b".into()];
        let command = Command::new(Path::new("/bin/true"), &args, null.as_fd());
        assert!(matches!(spawn(&command), Err(SpawnError::ZeroByte { .. })));
    }

    #[test]
    fn many_threads_spawn_at_once() {
        let worker = || {
            let (args, null) = (script("exit 5"), File::open("/dev/null").unwrap());
            for _ in 0..20 {
                let command = Command::new(Path::new("/bin/sh"), &args, null.as_fd());
                assert_eq!(output(&command).1, Exit::Code(5));
            }
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(worker)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
