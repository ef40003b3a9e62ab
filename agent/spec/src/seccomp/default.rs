//! The default profile: what a container may ask of the kernel when it is given RuntimeDefault.
//!
//! An allow-list, everything else is EPERM. It allows what moby's and containerd's default profiles allow (moby/profiles
//! `seccomp/default.json`, containerd `contrib/seccomp`), since that is what images are tried with: no io_uring, no
//! AF_ALG and AF_VSOCK sockets, no new namespaces without CAP_SYS_ADMIN, and some calls with the capability that
//! the kernel asks for anyway.

use super::profile::{Action, Arch, Arg, Op, Profile, Rule};
use crate::caps::{Cap, CapSet};

/// Files and directories, by path and by descriptor.
const FILES: &str = "\
    access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 \
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown \
    fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek \
    lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 \
    pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
    rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink \
    symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat \
    utimensat_time64 utimes vmsplice write writev";

/// Extended attributes, mount tables (read only) and change notification.
const ATTRIBUTES: &str = "\
    fanotify_mark fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat inotify_add_watch \
    inotify_init inotify_init1 inotify_rm_watch lgetxattr listmount listxattr listxattrat llistxattr \
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat statmount";

/// Waiting for descriptors, and asynchronous I/O of the old kind.
const EVENTS: &str = "\
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd \
    signalfd4";

/// Processes, threads, credentials, limits and scheduling.
const PROCESSES: &str = "\
    capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait \
    futex_waitv futex_wake getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups \
    getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 \
    getrlimit get_robust_list getrusage getsid get_thread_area gettid getuid getuid32 ioprio_get \
    ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr \
    lsm_list_modules lsm_set_self_attr membarrier pidfd_open prctl prlimit64 process_mrelease \
    process_vm_readv process_vm_writev ptrace rseq sched_getaffinity sched_getattr sched_getparam \
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address setuid setuid32 sysinfo \
    ugetrlimit uname vfork wait4 waitid waitpid";

/// Memory.
const MEMORY: &str = "\
    brk madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    remap_file_pages";

/// Signals.
const SIGNALS: &str = "\
    kill pause pidfd_send_signal restart_syscall rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sigaltstack sigprocmask sigreturn tgkill tkill uretprobe";

/// Clocks, timers and random numbers.
const TIME: &str = "\
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday nanosleep \
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times";

/// Sockets (`socket` itself is filtered below; 32-bit x86 may go through `socketcall`, whose arguments a filter
/// cannot see) and System V and POSIX IPC.
const COMMUNICATION: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl \
    msgget msgrcv msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop \
    semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown \
    socketcall socketpair";

#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const OF_THIS_ARCHITECTURE: &str =
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";
#[cfg(target_arch = "riscv64")]
const OF_THIS_ARCHITECTURE: &str = "riscv_flush_icache riscv_hwprobe";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const OF_THIS_ARCHITECTURE: &str = "";

/// What comes with a capability of the bounding set.
const WITH_CAPABILITY: &[(Cap, &str)] = &[
    (Cap::DAC_READ_SEARCH, "open_by_handle_at"),
    (
        Cap::SYS_ADMIN,
        "\
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
        move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
        umount umount2 unshare",
    ),
    (Cap::SYS_BOOT, "reboot"),
    (Cap::SYS_CHROOT, "chroot"),
    (Cap::SYS_MODULE, "delete_module finit_module init_module"),
    (Cap::SYS_PACCT, "acct"),
    (Cap::SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (Cap::SYS_RAWIO, "ioperm iopl"),
    (Cap::SYS_TIME, "clock_settime clock_settime64 settimeofday stime"),
    (Cap::SYS_TTY_CONFIG, "vhangup"),
    (Cap::SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Cap::SYSLOG, "syslog"),
    (Cap::BPF, "bpf"),
    (Cap::PERFMON, "perf_event_open"),
];

/// Execution domains that personality(2) may ask for or set: Linux, Linux with 32-bit uname, UNAME26 with either,
/// and "tell me the one in force".
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of clone(2). NEWTIME overlaps clone's exit signal.
const CLONE_NEW_NAMESPACES: u64 = 0x7e02_0000;

/// clone(2) has its flags second on s390.
const CLONE_FLAGS_ARGUMENT: u32 = if cfg!(target_arch = "s390x") { 1 } else { 0 };

/// The capabilities that make a difference to [`profile`].
pub fn relevant() -> CapSet {
    WITH_CAPABILITY.iter().fold(CapSet::EMPTY, |set, (cap, _)| set.with(*cap))
}

/// The default profile for a container with this bounding set.
pub fn profile(caps: CapSet) -> Profile {
    let mut rules: Vec<Rule> =
        [FILES, ATTRIBUTES, EVENTS, PROCESSES, MEMORY, SIGNALS, TIME, COMMUNICATION, OF_THIS_ARCHITECTURE]
            .into_iter()
            .map(|names| Rule::new(names, Action::Allow))
            .collect();
    rules.extend(PERSONALITIES.map(|value| with_argument("personality", 0, Op::EqualTo, value, 0)));
    rules.extend(FAMILIES.map(|(mask, value)| with_argument("socket", 0, Op::MaskedEqual, mask, value)));
    rules.extend(
        WITH_CAPABILITY
            .iter()
            .filter(|(cap, _)| caps.has(*cap))
            .map(|(_, names)| Rule::new(names, Action::Allow)),
    );
    if !caps.has(Cap::SYS_ADMIN) {
        rules.push(with_argument("clone", CLONE_FLAGS_ARGUMENT, Op::MaskedEqual, CLONE_NEW_NAMESPACES, 0));
        // A filter cannot see clone3's flags, which lie in memory. ENOSYS makes libc fall back to clone.
        rules.push(Rule { errno: Some(libc::ENOSYS as u32), ..Rule::new("clone3", Action::Errno) });
    }
    Profile {
        default_action: Action::Errno,
        default_errno: None,
        architectures: Arch::family_of_this(),
        rules,
        flags: None,
    }
}

/// Address families of socket(2): value under mask. All below 64 (the kernel's last is 45) but AF_ALG (38) and
/// AF_VSOCK (40). By masks, since the kernel looks at 32 bits of the argument and a comparison at 64: with "greater
/// than 40" allowed, `1 << 32 | AF_ALG` would pass the filter and be AF_ALG.
const FAMILIES: [(u64, u64); 8] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
    (0xffff_fff0, 48),
];

fn with_argument(name: &str, index: u32, op: Op, value: u64, value_two: u64) -> Rule {
    Rule { args: vec![Arg { index, value, value_two, op }], ..Rule::new(name, Action::Allow) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_but_two() {
        let passes = |family: u64| FAMILIES.iter().any(|(mask, value)| family & mask == *value);
        let refused: Vec<u64> = (0..1 << 10).filter(|family| !passes(*family)).collect();
        assert_eq!(refused[..2], [libc::AF_ALG as u64, libc::AF_VSOCK as u64]);
        assert_eq!(refused[2], 64);
        for family in [libc::AF_ALG as u64, libc::AF_VSOCK as u64] {
            assert!((32..64).all(|bit| !passes(family | 1 << bit)), "{family} behind a high bit");
        }
    }

    #[test]
    fn no_name_twice_and_none_that_opens_the_host() {
        let profile = profile(CapSet::EMPTY);
        let plain = || profile.rules.iter().filter(|rule| rule.args.is_empty()).flat_map(|rule| &rule.names);
        let unique: std::collections::BTreeSet<&String> = plain().collect();
        assert_eq!(unique.len(), plain().count());
        for name in
            ["io_uring_setup", "mount", "setns", "unshare", "bpf", "socket", "clone", "keyctl", "userfaultfd"]
        {
            assert!(!unique.contains(&name.to_owned()), "{name}");
        }
    }
}
