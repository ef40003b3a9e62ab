//! Compiled programs, tried on this kernel: a small C program loads one and makes calls behind it.
#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_arch = "x86_64")]

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

use holdfast_model::SecurityProfile;
use holdfast_spec::{
    ErrorKind,
    caps::{Cap, CapSet},
    seccomp::{Compiler, Program, SeccompError},
};

const KERNEL: (u32, u32) = (6, 1);
const OK: i32 = 0;
const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;
const EINVAL: i32 = libc::EINVAL;
const EFAULT: i32 = libc::EFAULT;

fn probe() -> &'static PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        // A machine without a compiler is given the program.
        if let Some(binary) = std::env::var_os("HOLDFAST_SECCOMP_PROBE") {
            return binary.into();
        }
        let binary =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("seccomp_probe.{}", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp_probe.c");
        let output =
            Command::new("cc").args(["-O1", "-Wall", "-o"]).arg(&binary).arg(source).output().unwrap();
        assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        binary
    })
}

fn run(program: &Program, calls: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), program.bytes()).unwrap();
    Command::new(probe()).arg(file.path()).args(calls).output().unwrap()
}

fn expect(program: &Program, table: &[(&str, String, i32)]) {
    let calls: Vec<&str> = table.iter().map(|(_, call, _)| call.as_str()).collect();
    let output = run(program, &calls);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(found.len(), table.len(), "{text}");
    for ((what, call, errno), found) in table.iter().zip(found) {
        assert_eq!(found, *errno, "{what} ({call})");
    }
}

fn default_program(caps: CapSet) -> std::sync::Arc<Program> {
    let compiler = Compiler::new("/nonexistent", KERNEL);
    compiler.program(&SecurityProfile::RuntimeDefault, caps).unwrap().unwrap()
}

fn native(number: i64, args: &str) -> String {
    format!("n:{number}{args}")
}

#[test]
fn what_the_default_profile_allows_and_denies() {
    let program = default_program(CapSet::DEFAULT);
    let new_namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    expect(
        &program,
        &[
            ("getpid", native(libc::SYS_getpid, ""), OK),
            ("openat of a null path", native(libc::SYS_openat, ":0:0:0:0"), EFAULT),
            ("personality(PER_LINUX)", native(libc::SYS_personality, ":0"), OK),
            ("personality(ask)", native(libc::SYS_personality, ":0xffffffff"), OK),
            ("personality(ADDR_NO_RANDOMIZE)", native(libc::SYS_personality, ":0x40000"), EPERM),
            ("unshare", native(libc::SYS_unshare, &format!(":{new_namespaces}")), EPERM),
            ("clone with namespaces", native(libc::SYS_clone, &format!(":{new_namespaces}:0:0:0:0")), EPERM),
            // Past the filter, then refused by the kernel: CLONE_SIGHAND needs CLONE_VM.
            ("clone without", native(libc::SYS_clone, ":0x800:0:0:0:0"), EINVAL),
            ("clone3", native(libc::SYS_clone3, ":buf:88"), ENOSYS),
            ("setns", native(libc::SYS_setns, ":-1:0"), EPERM),
            ("mount", native(libc::SYS_mount, ":0:0:0:0:0"), EPERM),
            ("io_uring_setup", native(libc::SYS_io_uring_setup, ":1:buf"), EPERM),
            ("io_uring_enter", native(libc::SYS_io_uring_enter, ":1:0:0:0:0"), EPERM),
            ("keyctl", native(libc::SYS_keyctl, ":0:0"), EPERM),
            ("add_key", native(libc::SYS_add_key, ":0:0:0:0"), EPERM),
            ("bpf", native(libc::SYS_bpf, ":0:0:0"), EPERM),
            ("perf_event_open", native(libc::SYS_perf_event_open, ":0:0:0:0:0"), EPERM),
            ("userfaultfd", native(libc::SYS_userfaultfd, ":0"), EPERM),
            ("kexec_load", native(libc::SYS_kexec_load, ":0:0:0:0"), EPERM),
            ("init_module", native(libc::SYS_init_module, ":0:0:0"), EPERM),
            ("reboot", native(libc::SYS_reboot, ":0:0:0"), EPERM),
            ("settimeofday", native(libc::SYS_settimeofday, ":0:1"), EPERM),
            ("open_by_handle_at", native(libc::SYS_open_by_handle_at, ":0:0:0"), EPERM),
            ("pidfd_getfd", native(libc::SYS_pidfd_getfd, ":0:0:0"), EPERM),
            ("ptrace of nobody", native(libc::SYS_ptrace, ":16:0x7fffffff"), libc::ESRCH),
            ("chroot of a null path", native(libc::SYS_chroot, ":0"), EFAULT),
        ],
    );
}

#[test]
fn socket_families() {
    let socket = |family: i32| native(libc::SYS_socket, &format!(":{family}:0:0"));
    expect(
        &default_program(CapSet::DEFAULT),
        &[
            ("AF_UNIX", socket(libc::AF_UNIX).replace(":0:0", ":1:0"), OK),
            ("AF_INET", socket(libc::AF_INET).replace(":0:0", ":1:0"), OK),
            ("AF_ALG", socket(libc::AF_ALG).replace(":0:0", ":5:0"), EPERM),
            // AF_NFC, between the two: its own answer, whatever it is here, is not EPERM.
            ("AF_NFC", native(libc::SYS_socket, ":39:77:0"), unfiltered_call("n:41:39:77:0")),
            ("AF_VSOCK", socket(libc::AF_VSOCK).replace(":0:0", ":1:0"), EPERM),
            (
                "a family that the kernel does not have yet",
                socket(63).replace(":0:0", ":1:0"),
                libc::EAFNOSUPPORT,
            ),
            // The kernel looks at 32 bits only: a family hidden behind higher ones must not pass.
            ("AF_ALG with high bits", native(libc::SYS_socket, ":0x100000026:5:0"), EPERM),
            ("AF_VSOCK with high bits", native(libc::SYS_socket, ":0xffffffff00000028:1:0"), EPERM),
        ],
    );
}

#[test]
fn calls_that_libseccomp_is_too_old_for() {
    expect(
        &default_program(CapSet::DEFAULT),
        &[
            // Allowed by number; the kernel's own answer.
            ("fchmodat2", native(452, ":-1:0:0:0x10000"), unfiltered_call("n:452:-1:0:0:0x10000")),
            ("cachestat", native(451, ":-1:0:0:0"), unfiltered_call("n:451:-1:0:0:0")),
            // Not allowed, and new: a C library has to be able to fall back.
            ("file_setattr", native(469, ":-1:0:0:0:0"), ENOSYS),
            ("a call of the future", native(900, ""), ENOSYS),
            ("no call at all", native(-1, ""), ENOSYS),
        ],
    );
}

fn unfiltered_call(call: &str) -> i32 {
    let all = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32"]}"#;
    let output = run(&localhost(all).unwrap(), &[call]);
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let admin = default_program(CapSet::DEFAULT.with(Cap::SYS_ADMIN));
    expect(
        &admin,
        &[
            ("setns of no descriptor", native(libc::SYS_setns, ":-1:0"), libc::EBADF),
            ("unshare nothing", native(libc::SYS_unshare, ":0"), OK),
            ("clone3 of size 0", native(libc::SYS_clone3, ":buf:0"), EINVAL),
            ("mount of null paths", native(libc::SYS_mount, ":0:0:0:0:0"), EFAULT),
            ("io_uring_setup", native(libc::SYS_io_uring_setup, ":1:buf"), EPERM),
        ],
    );
    let none = default_program(CapSet::EMPTY);
    expect(
        &none,
        &[("chroot", native(libc::SYS_chroot, ":0"), EPERM), ("getpid", native(libc::SYS_getpid, ""), OK)],
    );
    let ptrace = default_program(CapSet::DEFAULT.with(Cap::SYS_PTRACE));
    expect(&ptrace, &[("pidfd_getfd", native(libc::SYS_pidfd_getfd, ":-1:0:0"), libc::EBADF)]);
}

/// 32-bit calls by int 0x80: getpid is 20, mount 21, unshare 310, socket 359, clone3 435.
#[test]
fn thirty_two_bit_programs_run_under_the_same_rules() {
    if unfiltered_ends("i:20") {
        println!("SKIP: this kernel runs no 32-bit x86 programs");
        return;
    }
    expect(
        &default_program(CapSet::DEFAULT),
        &[
            ("getpid", "i:20".to_owned(), OK),
            ("mount", "i:21:0:0:0:0:0".to_owned(), EPERM),
            ("unshare", "i:310:0x10000000".to_owned(), EPERM),
            ("AF_UNIX socket", "i:359:1:1:0".to_owned(), OK),
            ("AF_ALG socket", "i:359:38:5:0".to_owned(), EPERM),
            ("AF_VSOCK socket", "i:359:40:1:0".to_owned(), EPERM),
            ("clone3", "i:435:buf:88".to_owned(), ENOSYS),
            ("io_uring_setup", "i:425:1:buf".to_owned(), EPERM),
            ("a call of the future", "i:900".to_owned(), ENOSYS),
        ],
    );
}

/// Most kernels have no x32: what passes the filter is then answered ENOSYS, and what does not is EPERM.
#[test]
fn x32_is_not_killed() {
    let getpid = unfiltered_call("x:39");
    expect(
        &default_program(CapSet::DEFAULT),
        &[
            ("getpid", "x:39".to_owned(), getpid),
            ("mount", "x:165:0:0:0:0:0".to_owned(), EPERM),
            ("a call of the future", "x:900".to_owned(), ENOSYS),
        ],
    );
}

fn unfiltered_ends(call: &str) -> bool {
    !run(
        &localhost(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}"#).unwrap(),
        &[call],
    )
    .status
    .success()
}

fn localhost(text: &str) -> Result<std::sync::Arc<Program>, SeccompError> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("profiles")).unwrap();
    std::fs::write(directory.path().join("profiles/p.json"), text).unwrap();
    let compiler = Compiler::new(directory.path(), KERNEL);
    let reference = SecurityProfile::Localhost("localhost/profiles/p.json".to_owned());
    compiler.program(&reference, CapSet::DEFAULT).map(Option::unwrap)
}

#[test]
fn localhost_profiles() {
    let deny_mkdir = localhost(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","not_a_call"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
            {"names":["mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    expect(
        &deny_mkdir.unwrap(),
        &[
            ("mkdir", native(libc::SYS_mkdir, ":0:0"), libc::ENOSPC),
            ("mkdirat", native(libc::SYS_mkdirat, ":0:0:0"), EPERM),
            ("rmdir", native(libc::SYS_rmdir, ":0"), EFAULT),
            // A permissive default stays one for new calls.
            ("file_getattr", native(468, ":-1:0:0:0:0"), unfiltered_call("n:468:-1:0:0:0:0")),
        ],
    );

    // Conditions on one argument are alternatives, those on different ones have to hold together.
    let conditions = localhost(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":70,"args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["prlimit64"],"action":"SCMP_ACT_ERRNO","errnoRet":71,"args":[
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":1,"value":6,"valueTwo":4,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    expect(
        &conditions.unwrap(),
        &[
            ("socket(1)", native(libc::SYS_socket, ":1:1:0"), 70),
            ("socket(2)", native(libc::SYS_socket, ":2:1:0"), 70),
            ("prlimit64(0, 5)", native(libc::SYS_prlimit64, ":0:5:0:0"), 71),
            ("prlimit64(0, 3)", native(libc::SYS_prlimit64, ":0:3:0:0"), OK),
        ],
    );

    let kill = localhost(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sync"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    )
    .unwrap();
    let output = run(&kill, &[&native(libc::SYS_sync, "")]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGSYS));
}

#[test]
fn flags() {
    let with = |flags: &str| localhost(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#));
    assert_eq!(with("").unwrap().flags(), 1 << 2);
    assert_eq!(with(r#","flags":[]"#).unwrap().flags(), 0);
    let log = r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"]"#;
    assert_eq!(with(log).unwrap().flags(), 1 << 1);
    let error = with(r#","flags":["SECCOMP_FILTER_FLAG_NEW_LISTENER"]"#).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn bad_profiles_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("broken.json"), "{").unwrap();
    std::fs::write(
        at("arg.json"),
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sync"],
        "action":"SCMP_ACT_LOG","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
    )
    .unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let compiler = Compiler::new(directory.path(), KERNEL);
    for (reference, kind) in [
        ("broken.json", ErrorKind::InvalidArgument),
        ("arg.json", ErrorKind::InvalidArgument),
        ("directory", ErrorKind::InvalidArgument),
        ("fifo", ErrorKind::InvalidArgument),
        ("missing.json", ErrorKind::NotFound),
        ("broken.json/below", ErrorKind::NotFound),
        ("/nonexistent/missing.json", ErrorKind::NotFound),
        ("../escape.json", ErrorKind::InvalidArgument),
        ("", ErrorKind::InvalidArgument),
        ("localhost/", ErrorKind::InvalidArgument),
    ] {
        let profile = SecurityProfile::Localhost(reference.to_owned());
        let error = compiler.program(&profile, CapSet::DEFAULT).unwrap_err();
        assert_eq!(error.kind(), kind, "{reference}: {error}");
        assert!(error.to_string().contains(reference.trim_start_matches("localhost/")), "{error}");
    }
}

#[test]
fn programs_are_kept_and_changed_files_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    let compiler = Compiler::new(directory.path(), KERNEL);
    let default = |caps| compiler.program(&SecurityProfile::RuntimeDefault, caps).unwrap().unwrap();
    let first = default(CapSet::DEFAULT);
    assert!(std::sync::Arc::ptr_eq(&first, &default(CapSet::DEFAULT)));
    // KILL changes nothing in the profile.
    assert!(std::sync::Arc::ptr_eq(&first, &default(CapSet::DEFAULT.without(Cap::KILL))));
    assert_ne!(first, default(CapSet::EMPTY));
    assert!(first.instructions() < 4096, "{}", first.instructions());

    let local = || compiler.program(&SecurityProfile::Localhost("p.json".to_owned()), CapSet::DEFAULT);
    std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    let before = local().unwrap();
    std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_LOG"}"#).unwrap();
    assert_ne!(before, local().unwrap());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(local().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(compiler.program(&SecurityProfile::Unconfined, CapSet::DEFAULT).unwrap(), None);
}
