//! A process's own affairs, on the way to execve(2) and in a small long-lived program.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::error::{CallError, Result};

/// The highest signal number.
pub const MAX_SIGNAL: i32 = 64;

fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// Ends the process at once: no destructor, no exit handler. For children of a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no conditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but those. Owners of the closed ones must not use or drop them any more: for children
/// of a fork that end by [`exit_now`] or execve(2).
pub fn close_all_but(kept: &mut [RawFd]) -> Result<()> {
    kept.sort_unstable();
    let mut first: u32 = 0;
    for fd in kept.iter().map(|fd| *fd as u32) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last_fd: u32) -> Result<()> {
    // SAFETY: touches no memory. That no owner uses those descriptors any more is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last_fd, 0) } {
        0 => Ok(()),
        _ => Err(CallError::new(format!("close_range({first}, {last_fd})"), last())),
    }
}

/// Every signal gets its default action back, and none is blocked (the Rust runtime ignores SIGPIPE).
pub fn reset_signals() {
    // SAFETY: sigaction and sigset_t are plain data, for which zero is a value: SIG_DFL, no flags, an empty mask.
    let (default, none): (libc::sigaction, libc::sigset_t) = unsafe { std::mem::zeroed() };
    for signal in 1..=MAX_SIGNAL {
        // SAFETY: `default` is a valid action and outlives the call. What cannot be set (SIGKILL, the C library's own)
        // fails and changes nothing.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    // SAFETY: `none` is a valid set and outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// Loads a program of `struct sock_filter` (seccomp(2), SECCOMP_SET_MODE_FILTER).
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN where no_new_privs is not set, EINVAL if the program is none.
pub fn load_seccomp(program: &Filter) -> Result<()> {
    let filters = &program.instructions;
    let flags = program.flags;
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, {} instructions)", filters.len());
    let len = u16::try_from(filters.len()).map_err(|_| CallError::new(call(), Errno::INVAL))?;
    let program = libc::sock_fprog { len, filter: filters.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies and does not change them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(CallError::new(call(), last())) }
}

/// A seccomp program, ready to be loaded.
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: u32,
}

impl Filter {
    /// `bytes` is an array of `struct sock_filter`, `flags` are those of seccomp(2). `None`: it is not.
    pub fn from_bytes(bytes: &[u8], flags: u32) -> Option<Self> {
        let (instructions, rest) = bytes.as_chunks::<8>();
        if instructions.is_empty() || !rest.is_empty() {
            return None;
        }
        let filter = |[a, b, jt, jf, k @ ..]: [u8; 8]| libc::sock_filter {
            code: u16::from_ne_bytes([a, b]),
            jt,
            jf,
            k: u32::from_ne_bytes(k),
        };
        Some(Self { instructions: instructions.iter().map(|bytes| filter(*bytes)).collect(), flags })
    }
}

/// Begins a session keyring of its own (keyrings(7)), which children share: the one that we inherited is somebody else's.
/// It has no name, so that nobody else can join it.
///
/// # Errors
/// EDQUOT if our user has too many keys. A kernel that has no keys is success, and so is one that we may not ask
/// (EPERM comes of a seccomp filter, which forbids keys to our children as well).
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name means an anonymous keyring; no memory is touched.
    let id =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>()) };
    match last() {
        _ if id > 0 => Ok(()),
        e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        e => Err(CallError::new("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", e)),
    }
}

/// Kills the process group that `leader`, a child of ours that is not yet reaped, leads. No group is success.
pub fn kill_group(leader: i32) {
    if let Some(group) = rustix::process::Pid::from_raw(leader).filter(|_| leader > 1) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// The pid of a child that has ended and is still to be reaped; never waits.
pub fn ended_child() -> Option<i32> {
    // SAFETY: siginfo_t is plain data, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call and is of the type that it fills.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    // SAFETY: waitid(2) has filled in the part for SIGCHLD, or left the zeros.
    let pid = unsafe { info.si_pid() };
    (result == 0 && pid > 0).then_some(pid)
}

/// Argument and environment of a program, laid out as execve(2) wants them, so that nothing is allocated any more
/// when it comes to that.
#[derive(Debug)]
pub struct Program {
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

impl Program {
    /// Lays them out.
    pub fn new(arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        // Moving a CString leaves its bytes where they are, on the heap.
        let mut strings = arguments;
        strings.extend(environment);
        Self { _strings: strings, argv, envp }
    }

    /// Becomes the program at `path`. Comes back only with an error.
    pub fn run(&self, path: &CStr) -> Errno {
        // SAFETY: `path` is a C string; `argv` and `envp` end in null and point to C strings that `self` owns.
        unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        Errno::from_io_error(&last()).unwrap_or(Errno::IO)
    }
}

/// Keeps the C library's allocator small: one arena, however many threads, and what was freed goes back.
pub fn small_heap() {
    const KIB: libc::c_int = 1024;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, 0),
        (libc::M_TRIM_THRESHOLD, 16 * KIB),
        (libc::M_MMAP_THRESHOLD, 32 * KIB),
    ] {
        // SAFETY: mallopt(3) takes two integers and must not race with another mallopt: we have no thread yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives freed memory back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) has no conditions.
    unsafe { libc::malloc_trim(0) };
}

/// A number that is shared with the children of later forks.
#[derive(Debug)]
pub struct SharedWord {
    page: std::ptr::NonNull<AtomicU32>,
}

impl SharedWord {
    const LEN: usize = size_of::<AtomicU32>();

    /// Begins with 0.
    pub fn new() -> Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at a place that the kernel chooses touches no memory of ours.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), Self::LEN, protection, flags, -1, 0) };
        let failed = || CallError::new("mmap(MAP_SHARED | MAP_ANONYMOUS)", last());
        if page == libc::MAP_FAILED {
            return Err(failed());
        }
        Ok(Self { page: std::ptr::NonNull::new(page.cast()).ok_or_else(failed)? })
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, zeroed, large enough and lives as long as `self`.
        unsafe { self.page.as_ref() }
    }

    /// Stores.
    pub fn set(&self, value: u32) {
        self.word().store(value, Ordering::Relaxed);
    }

    /// Loads.
    pub fn get(&self) -> u32 {
        self.word().load(Ordering::Relaxed)
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), Self::LEN) };
    }
}

/// Is the program that we run on a read-only mount, where no container can write to it?
pub fn program_is_protected() -> bool {
    rustix::fs::statvfs(c"/proc/self/exe")
        .is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Runs our own program again from a detached read-only copy of its mount, with the same arguments, environment and
/// descriptors. Then `/proc/PID/exe` of our children leads nowhere that can be written (CVE-2019-5736), and all
/// copies still share the file's pages. `mark` is set in the new run's environment. Comes back only with an error.
pub fn run_again_protected(mark: &str) -> CallError {
    match protected_program() {
        Ok(program) => execute(&program, mark),
        Err(e) => e,
    }
}

fn protected_program() -> Result<OwnedFd> {
    let copy = crate::mount::copy_path(std::path::Path::new("/proc/self/exe"), false)?;
    let change = crate::mount::Change { set: crate::mount::RDONLY, ..Default::default() };
    crate::mount::set_attributes(&copy, false, change)?;
    Ok(copy)
}

fn execute(program: &OwnedFd, mark: &str) -> CallError {
    use std::os::unix::ffi::OsStringExt;
    let arguments = std::env::args_os().filter_map(|a| CString::new(a.into_vec()).ok()).collect();
    let environment = std::env::vars_os()
        .chain([(mark.into(), "1".into())])
        .filter_map(|(key, value)| {
            let (mut pair, value) = (key.into_vec(), value.into_vec());
            pair.push(b'=');
            pair.extend(value);
            CString::new(pair).ok()
        })
        .collect();
    let all = Program::new(arguments, environment);
    // SAFETY: an empty C string as path, and argv and envp as in `Program::run`.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            all.argv.as_ptr(),
            all.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    CallError::new("execveat(read-only copy of our program)", last())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clone::{Birth, Forked, fork};
    use crate::pidfd::{self, Exit};

    fn in_child(what: impl FnOnce() -> i32) -> Exit {
        let child = match fork(Birth::default()).unwrap() {
            Forked::Child => exit_now(what()),
            Forked::Parent(child) => child,
        };
        assert!(pidfd::wait_exit(&child.pidfd, std::time::Duration::from_secs(10)).unwrap());
        pidfd::reap(&child.pidfd).unwrap().unwrap()
    }

    #[test]
    fn only_the_kept_descriptors_stay_open() {
        let (a, b) = rustix::pipe::pipe().unwrap();
        let exit = in_child(|| {
            close_all_but(&mut [b.as_raw_fd(), 2]).unwrap();
            let open = |fd: RawFd| std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
            let (a, b) = (a.as_raw_fd(), b.as_raw_fd());
            i32::from(open(a)) | i32::from(!open(b)) << 1 | i32::from(!open(2)) << 2 | i32::from(open(0)) << 3
        });
        assert_eq!(exit, Exit::Code(0));
    }

    #[test]
    fn a_filter_is_whole_instructions_and_is_loaded() {
        assert!(Filter::from_bytes(&[], 0).is_none());
        assert!(Filter::from_bytes(&[0; 12], 0).is_none());
        // BPF_RET | BPF_K, SECCOMP_RET_ALLOW.
        let allow = Filter::from_bytes(&[0x06, 0, 0, 0, 0, 0, 0xff, 0x7f], 0).unwrap();
        let exit = in_child(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            i32::from(load_seccomp(&allow).is_err())
        });
        assert_eq!(exit, Exit::Code(0));
    }

    #[test]
    fn a_program_gets_its_arguments_and_environment() {
        let c = |text: &str| CString::new(text).unwrap();
        let script = c("test \"$0$X\" = ab && kill -PIPE $$");
        let program = Program::new(vec![c("sh"), c("-c"), script, c("a")], vec![c("X=b")]);
        let exit = in_child(|| {
            reset_signals();
            program.run(c"/bin/sh");
            9
        });
        assert_eq!(exit, Exit::Signal(libc::SIGPIPE));
        assert_eq!(program.run(c"/no/such/program"), Errno::NOENT);
    }

    #[test]
    fn a_shared_word_is_seen_across_a_fork() {
        let word = SharedWord::new().unwrap();
        in_child(|| {
            word.set(7);
            0
        });
        assert_eq!(word.get(), 7);
    }
}
