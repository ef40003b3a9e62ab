//! A further process in the container: the stages of an exec.
//!
//! Two processes again, for one reason: whoever is in the container's pid namespace can be seen there, so it must
//! have left the host before. The first joins everything, the second is born in the pid namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use holdfast_pod::protocol::ResolvedUser;
use holdfast_sys::caps::Bounding;
use holdfast_sys::clone::{Birth, Forked, fork};
use holdfast_sys::mount::FileSystem;
use holdfast_sys::process::{self, Filter};
use holdfast_sys::{ns, tty};
use oci_spec::runtime::Process;
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, StatVfsMountFlags, Uid, fchown, fstat, fstatvfs, openat};

use super::{Stdio, born, cgroup, close_the_host, command, console, end, identity, join, launch, null, oom};
use crate::fault::{OrFail, Result, internal, invalid};
use crate::link::{Progress, Ready, Report, Step, host_id, report};

/// f_type of procfs and devpts (linux/magic.h).
const PROC_MAGIC: i64 = 0x9fa0;
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// All that the exec stage is given.
#[derive(Debug)]
pub struct Plan<'a> {
    /// [`holdfast_pod::launch::ExecLaunch`].
    pub process: BorrowedFd<'a>,
    /// Program of `struct sock_filter`.
    pub seccomp: Option<BorrowedFd<'a>>,
    /// pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// v1 `tasks` files.
    pub tasks: &'a [OwnedFd],
    /// Where output goes.
    pub stdio: &'a Stdio,
    /// The container's null device.
    pub null: Option<&'a OwnedFd>,
    /// The shim's bounding set.
    pub bounding: Bounding,
    /// What stood at the gate.
    pub container: &'a Ready,
    /// The stages' end of the link.
    pub link: BorrowedFd<'a>,
    /// Progress of the stages, shared with the shim.
    pub progress: &'a Progress,
}

/// The exec stage, in a child of the shim.
pub fn run(plan: &Plan<'_>) -> ! {
    end(plan.link, Some(plan.progress), outside(plan))
}

fn outside(plan: &Plan<'_>) -> Result<()> {
    cgroup::enter(plan.tasks)?;
    let exec = launch::read_exec(plan.process)?;
    let seccomp = launch::read_seccomp(plan.seccomp, exec.seccomp_flags)?;
    // Ours is that of a part of the node, which the kernel shall not kill; the container's is its own.
    oom::adjust(&exec.process)?;
    identity::raise_limits(&exec.process);
    // As the host's root, who alone may: the pipes are the agent's.
    own_stdio(plan, exec.process.user());
    let mut kept = vec![plan.link.as_raw_fd(), plan.init.as_raw_fd()];
    kept.extend(plan.stdio.descriptors());
    // Here, as we are to be seen in the container. By descriptor: it may have put anything at /dev/null since.
    close_the_host(kept, plan.null.map_or_else(null::own, null::again)?)?;
    join::hide_memory()?;
    let user = if plan.container.uid_map.is_empty() { 0 } else { ns::NEWUSER };
    let all = ns::NEWNS | ns::NEWPID | ns::NEWNET | ns::NEWIPC | ns::NEWUTS | ns::NEWCGROUP | user;
    ns::join(plan.init, all).or_fail("join the container's namespaces: is it running?")?;
    if user != 0 {
        join::become_root_inside()?;
    }
    match fork(Birth { sibling: true, ..Birth::default() }).or_fail("clone process")? {
        Forked::Parent(_) => Ok(()),
        Forked::Child => end(plan.link, Some(plan.progress), inside(plan, &exec, seccomp.as_ref())),
    }
}

fn inside(plan: &Plan<'_>, exec: &launch::Exec, seccomp: Option<&Filter>) -> Result<()> {
    born(plan.link)?;
    let process = &exec.process;
    let user = user_of(process.user());
    let home = if user.uid == plan.container.user.uid { plan.container.user.home.as_str() } else { "/" };
    let mut command = command::prepare(process, &exec.raw_env, home)?;
    match plan.stdio {
        Stdio::Three(three) => console::take_three(three)?,
        Stdio::Terminal => take_new_terminal(plan, process, user.uid)?,
    }
    let proc = if command::has_label(process) { own_proc() } else { None };
    command::set_label(process, proc.as_ref().map(AsFd::as_fd))?;
    drop(proc);
    // The link closes itself at execve, and is needed until then.
    process::close_all_but(&mut [0, 1, 2, plan.link.as_raw_fd()]).or_fail("close what is not stdio")?;
    let directory = command::change_directory(process.cwd());
    let bounding = plan.bounding.of_child(!plan.container.uid_map.is_empty());
    let mut identity = identity::Identity::of(process, &user, seccomp.is_some(), bounding)?;
    identity.become_user()?;
    command::change_directory_again(directory, process.cwd())?;
    plan.progress.at(Step::Run);
    command.locate()?;
    identity.last_steps(seccomp)?;
    Err(command.run(plan.progress))
}

/// A terminal of the container's own devpts, so that it has a name there. Its master goes to the shim.
fn take_new_terminal(plan: &Plan<'_>, process: &Process, uid: u32) -> Result<()> {
    const STAGE: &str = "make terminal";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // By name, but we are inside: whatever a process of the container has put there is its own. What is not a devpts
    // has no terminals, and could be anybody's file.
    let devpts = openat(CWD, "/dev/pts", flags, Mode::empty())
        .or_invalid(STAGE, "has the container removed its /dev/pts?")?;
    if !is_on(&devpts, DEVPTS_MAGIC) {
        return Err(invalid(
            STAGE,
            "the container's /dev/pts is no devpts: has it mounted something else there?",
        ));
    }
    let terminal = tty::open_in(&devpts).or_fail(STAGE)?;
    if let Some(size) = process.console_size().as_ref().filter(|size| size.width() > 0) {
        tty::resize(&terminal.master, size.width() as u16, size.height() as u16).or_fail(STAGE)?;
    }
    report(plan.link, &Report::Terminal, Some(terminal.master.as_fd()))
        .map_err(|e| internal("report to the shim", e.to_string()))?;
    console::take_terminal(&terminal.slave, uid)
}

fn is_on(fd: &OwnedFd, magic: i64) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type == magic)
}

fn user_of(user: &oci_spec::runtime::User) -> ResolvedUser {
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    groups.push(user.gid());
    groups.sort_unstable();
    groups.dedup();
    ResolvedUser { uid: user.uid(), gid: user.gid(), groups, home: String::new() }
}

/// The container's /proc, if it is one that can be written to: it may be the host's and read-only, and a process may have
/// mounted something else there since. Else one for us alone, which a user namespace may refuse.
fn own_proc() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mounted = openat(CWD, "/proc", flags, Mode::empty()).ok().filter(|fd| is_on(fd, PROC_MAGIC));
    let read_only = |fd: &OwnedFd| fstatvfs(fd).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    mounted.filter(|fd| !read_only(fd)).or_else(|| FileSystem::open("proc").and_then(|fs| fs.mount(0)).ok())
}

/// A user that is not root may then open /dev/stdout anew. Sockets and files of somebody else stay what they are.
fn own_stdio(plan: &Plan<'_>, user: &oci_spec::runtime::User) {
    let uid = Uid::from_raw(host_id(&plan.container.uid_map, user.uid()));
    let gid = Gid::from_raw(host_id(&plan.container.gid_map, user.gid()));
    let Stdio::Three(three) = plan.stdio else { return };
    let pipes = three
        .iter()
        .flatten()
        .filter(|fd| fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo));
    for pipe in pipes {
        let _ = fchown(pipe, Some(uid), Some(gid));
    }
}
