//! What a container's start does with a holder, and what a container finds of it.
//!
//! Each test runs in a process of its own, where nothing but its thread works, and forks there: a user namespace takes
//! no process with threads, and a fork beside busy threads could inherit a lock.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use common::{
    LIMIT, acting, alone, config, eventually, is_root, keep, mounts, names, status, with_user_namespace,
};
use holdfast_pod::holder::{Holder, HolderConfig, Namespaces};
use holdfast_sys::clone::{Birth, Child, Forked, fork};
use holdfast_sys::mount::{FileSystem, attach, copy_path};
use holdfast_sys::process::exit_now;
use holdfast_sys::{ns, pidfd, socket};
use rustix::fs::{CWD, Mode, OFlags, openat};

const EVERYTHING: u64 = ns::NEWNS | ns::NEWUTS | ns::NEWIPC | ns::NEWNET;

/// Runs a test by itself in a process of its own.
fn in_own_process(test: &str, act: impl FnOnce()) {
    if !is_root() {
        return;
    }
    if acting() {
        act();
    } else {
        // Its own account of one test must not be counted beside ours.
        let output = alone(test).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
}

fn shared_pid(config: HolderConfig) -> HolderConfig {
    let namespaces = Namespaces { pid: true, ..config.namespaces };
    HolderConfig { namespaces, ..config }
}

/// A fork that does something and ends; what panics in it fails.
fn forked(namespaces: u64, act: impl FnOnce()) -> Child {
    match fork(Birth { namespaces, ..Birth::default() }).unwrap() {
        Forked::Parent(child) => child,
        Forked::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            exit_now(i32::from(result.is_err()))
        }
    }
}

fn succeeds(child: &Child) {
    assert!(pidfd::wait_exit(&child.pidfd, LIMIT).unwrap());
    assert_eq!(pidfd::reap(&child.pidfd).unwrap(), Some(pidfd::Exit::Code(0)));
}

/// As stage 1 does: from the host's root into all of the holder's namespaces at once.
fn join(holder: &Holder, user: bool, pid: bool) {
    let user = if user { ns::NEWUSER } else { 0 };
    let pid = if pid { ns::NEWPID } else { 0 };
    ns::join(holder.pidfd(), EVERYTHING | user | pid).unwrap();
    if user != 0 {
        rustix::thread::set_thread_gid(rustix::process::Gid::ROOT).unwrap();
        rustix::thread::set_thread_uid(rustix::process::Uid::ROOT).unwrap();
    }
}

/// Hangs a /proc of the pid namespace into /root, in a mount namespace of one's own. A user namespace may mount one only
/// where one is to be seen: that is the host's, below.
fn mount_proc(host: &OwnedFd) {
    let place = || openat(CWD, "/root", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    attach(host, place()).unwrap();
    let fs = FileSystem::open("proc").unwrap();
    let mount = fs.mount(0).unwrap();
    attach(&mount, place()).unwrap();
}

/// Joins a finished holder and makes a container's namespaces of its own from there.
fn join_and_start(user: bool, pid: bool) {
    let name = format!("join-{user}-{pid}");
    let base = config(&name);
    let base = if user { with_user_namespace(base) } else { base };
    let base = if pid { shared_pid(base) } else { base };
    let holder = keep(&base);
    let host_proc = copy_path(Path::new("/proc"), false).unwrap();
    let stage_1 = forked(0, || {
        join(&holder, user, pid);
        assert_eq!(names("/"), ["dev", "root"]);
        assert_eq!(nix::unistd::gethostname().unwrap().to_str(), Some(name.as_str()));
        fs::write("/dev/shm/shared", "by stage 1").unwrap();
        let own_pids = if pid { 0 } else { ns::NEWPID };
        let stage_2 = forked(ns::NEWNS | own_pids, || {
            mount_proc(&host_proc);
            let link = fs::read_link("/root/self").unwrap();
            assert_eq!(link == Path::new("1"), !pid, "{}", link.display());
            let table = fs::read_to_string("/root/self/mountinfo").unwrap();
            assert_eq!(table.lines().count(), 4, "the holder's two and these two: {table}");
            assert_eq!(fs::read_to_string("/dev/shm/shared").unwrap(), "by stage 1");
        });
        succeeds(&stage_2);
    });
    succeeds(&stage_1);
    assert_eq!(mounts(holder.pid()).len(), 2, "nothing came back into the holder");
}

#[test]
fn a_finished_holder_is_joined() {
    in_own_process("a_finished_holder_is_joined", || join_and_start(false, false));
}

#[test]
fn one_with_a_user_namespace_is_joined() {
    in_own_process("one_with_a_user_namespace_is_joined", || join_and_start(true, false));
}

#[test]
fn one_with_a_pid_namespace_is_joined() {
    in_own_process("one_with_a_pid_namespace_is_joined", || join_and_start(false, true));
}

#[test]
fn one_with_both_is_joined() {
    in_own_process("one_with_both_is_joined", || join_and_start(true, true));
}

/// All that a container with every capability of its user namespace may try on /proc/1.
fn look_behind_the_holder(host_proc: &OwnedFd, user: bool) {
    mount_proc(host_proc);
    let first = Path::new("/root/1");
    if user {
        // The holder's memory belongs to the host's user namespace: no capability of the pod's reaches it.
        for link in ["root", "cwd", "exe", "ns/mnt"] {
            let error = fs::read_link(first.join(link)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{link}");
        }
        assert_eq!(fs::read_dir(first.join("fd")).unwrap_err().kind(), ErrorKind::PermissionDenied);
        return;
    }
    assert_eq!(names(first.join("fd")), [""; 0]);
    for tree in ["root", "cwd"] {
        let tree = first.join(tree);
        assert_eq!(names(&tree), ["dev", "root"]);
        // `..` leads nowhere either.
        assert_eq!(names(tree.join("../../..")), ["dev", "root"]);
        let error = fs::write(tree.join("written"), "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    }
    let table = fs::read_to_string(first.join("mountinfo")).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    // Its program is the host's file, but of a read-only mount: kernels differ in whether a running program is busy.
    let program = first.join("exe");
    assert!(rustix::fs::statvfs(&program).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert_eq!(nix::unistd::truncate(&program, 0).unwrap_err(), nix::errno::Errno::EROFS);
    for mut options in [OpenOptions::new(), OpenOptions::new().read(true).clone()] {
        let error = options.write(true).open(&program).unwrap_err().kind();
        assert!(matches!(error, ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy), "{error}");
    }
}

fn nothing_behind(user: bool) {
    let base = shared_pid(config("behind"));
    let base = if user { with_user_namespace(base) } else { base };
    let holder = keep(&base);
    let host_proc = copy_path(Path::new("/proc"), false).unwrap();
    let stage_1 = forked(0, || {
        join(&holder, user, true);
        succeeds(&forked(ns::NEWNS, || look_behind_the_holder(&host_proc, user)));
    });
    succeeds(&stage_1);
}

#[test]
fn nothing_of_the_host_is_behind_the_first_process() {
    in_own_process("nothing_of_the_host_is_behind_the_first_process", || nothing_behind(false));
}

#[test]
fn nor_in_a_user_namespace() {
    in_own_process("nor_in_a_user_namespace", || nothing_behind(true));
}

/// Leaves a process behind in the pod's pid namespace, and sends its pidfd. It lives as long as `lives` has a writer.
fn orphan(report: &OwnedFd, lives: &OwnedFd) {
    let grandchild = forked(0, || {
        let _ = rustix::io::read(lives, &mut [0_u8; 1]);
    });
    socket::send_packet(report, b"p", &[grandchild.pidfd.as_fd()]).unwrap();
}

#[test]
fn the_first_process_reaps_orphans() {
    in_own_process("the_first_process_reaps_orphans", || {
        let holder = keep(&shared_pid(config("reaper")));
        let (ours, theirs) = socket::pair().unwrap();
        let (lives, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stage_1 = forked(0, || {
            // The grandchild's copy of the writing end would keep it alive.
            holdfast_sys::process::close_all_but(&mut [0, 1, 2, raw(&theirs), raw(&lives), raw_of(&holder)])
                .unwrap();
            ns::join(holder.pidfd(), ns::NEWPID).unwrap();
            succeeds(&forked(0, || orphan(&theirs, &lives)));
        });
        succeeds(&stage_1);
        let packet = socket::recv_packet(&ours, &mut [0; 1]).unwrap().unwrap();
        let orphan = &packet.fds[0];
        let pid = pidfd::pid_of(orphan).unwrap().unwrap();
        assert_eq!(status(pid, "PPid"), holder.pid().to_string());
        assert!(!pidfd::wait_exit(orphan, Duration::ZERO).unwrap());
        drop(writer);
        assert!(pidfd::wait_exit(orphan, LIMIT).unwrap());
        eventually("the holder has reaped the orphan", || pidfd::pid_of(orphan).unwrap().is_none());
        assert!(holder.is_alive());
    });
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn raw_of(holder: &Holder) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&holder.pidfd())
}

#[test]
fn the_pod_ends_with_its_first_process() {
    in_own_process("the_pod_ends_with_its_first_process", || {
        let holder = keep(&shared_pid(config("first")));
        let (ours, theirs) = socket::pair().unwrap();
        let (lives, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stage_1 = forked(0, || {
            ns::join(holder.pidfd(), ns::NEWPID).unwrap();
            succeeds(&forked(0, || orphan(&theirs, &lives)));
        });
        succeeds(&stage_1);
        let packet = socket::recv_packet(&ours, &mut [0; 1]).unwrap().unwrap();
        holder.kill_and_wait(LIMIT).unwrap();
        assert!(pidfd::wait_exit(&packet.fds[0], LIMIT).unwrap());
    });
}
