//! The stages of a container's start: what short-lived children of the shim do, one file a stage.
//!
//! Two processes take part. Stage 1 ([`outside`]) is born in the container's cgroup and in the host's namespaces, takes
//! from the host what the container needs as descriptors, closes everything else and joins the pod. Stage 2
//! ([`inside`]) is born in the pod with the container's own namespaces, builds the root and becomes the command. Both
//! lists below say why a step stands where it does; most orders that look as good are refused by some kernel.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use holdfast_pod::protocol::{Create, Failure};
use holdfast_sys::caps::Bounding;
use holdfast_sys::clone::{Birth, Forked, fork};
use holdfast_sys::path::Root;
use holdfast_sys::process::{self, exit_now};
use holdfast_sys::{ns, pidfd};
use rustix::fs::Mode;

use crate::fault::{OrFail, Result};
use crate::link::{self, Progress, Ready, Report, Step};

pub mod builder;
pub mod bundle;
pub mod cgroup;
pub mod command;
pub mod console;
pub mod devices;
pub mod exec;
pub mod files;
pub mod foreign_exec;
pub mod hide;
pub mod hooks;
pub mod identity;
pub mod images;
pub mod join;
pub mod label;
pub mod launch;
pub mod mounts;
pub mod null;
pub mod oom;
pub mod options;
pub mod propagation;
pub mod rootfs;
pub mod runtime;
pub mod sources;
pub mod sysctl;
pub mod unseen;
pub mod user;

/// Our end of stdio, as the container or an exec gets it.
#[derive(Debug)]
pub enum Stdio {
    /// stdin, stdout, stderr; what is missing is a null device, and never the host's.
    Three([Option<OwnedFd>; 3]),
    /// A terminal, to be made in the container's devpts.
    Terminal,
}

impl Stdio {
    /// All descriptors.
    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let three = if let Self::Three(three) = self { three.as_slice() } else { &[] };
        three.iter().flatten().map(AsRawFd::as_raw_fd)
    }
}

/// All that stage 1 is given. The shim's memory is copied into it, so these are plain borrows.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What the shim was asked for.
    pub create: &'a Create,
    /// [`holdfast_pod::launch::Launch`].
    pub launch: BorrowedFd<'a>,
    /// The container's state directory.
    pub state_dir: BorrowedFd<'a>,
    /// Program of `struct sock_filter`.
    pub seccomp: Option<BorrowedFd<'a>>,
    /// pidfd of the holder.
    pub holder: BorrowedFd<'a>,
    /// pidfd of the init whose pid namespace is joined.
    pub pid_target: Option<BorrowedFd<'a>>,
    /// v1 `tasks` files.
    pub tasks: &'a [OwnedFd],
    /// The container's stdio.
    pub stdio: &'a Stdio,
    /// The shim's bounding set.
    pub bounding: Bounding,
    /// Socket to the process that runs hooks in the runtime's namespaces, if there are hooks of any kind.
    pub hooks: Option<BorrowedFd<'a>>,
    /// The stages' end of the link.
    pub link: BorrowedFd<'a>,
    /// Progress of the stages, shared with the shim.
    pub progress: &'a Progress,
}

/// Stage 1, in a child of the shim.
pub fn run(plan: &Plan<'_>) -> ! {
    end(plan.link, Some(plan.progress), outside(plan))
}

/// What is told to the shim at a stage's end.
fn end(link: BorrowedFd<'_>, progress: Option<&Progress>, result: Result<()>) -> ! {
    match result {
        Ok(()) => exit_now(0),
        Err(failure) => {
            // First, for the other way takes calls that a seccomp program may forbid.
            if let Some(progress) = progress {
                progress.failed(failure.errno);
            }
            tell_failure(link, failure);
            exit_now(1)
        }
    }
}

fn tell_failure(link: BorrowedFd<'_>, mut failure: Failure) {
    const LONGEST: usize = 4096;
    if failure.text.len() > LONGEST {
        failure.text = failure.text.chars().take(LONGEST).collect();
    }
    // A shim that is gone needs no news.
    let _ = link::report(link, &Report::Failed(failure), None);
}

/// Stage 1: on the host.
fn outside(plan: &Plan<'_>) -> Result<()> {
    let at = |step| plan.progress.at(step);
    // Before v1 groups count what is ours: log and record outlive the container.
    at(Step::OpenFiles);
    files::open(plan.create, plan.state_dir, plan.link)?;
    // So early that all that follows is counted to the container. v2 was done by clone3. A single-threaded process
    // that writes itself costs 0.05 ms, a pid written by the parent 6 to 11.
    at(Step::EnterCgroup);
    cgroup::enter(plan.tasks)?;
    // With the systemd driver the cgroup is made around us; nothing of ours may exist before it counts us.
    at(Step::AwaitPlacement);
    if plan.create.await_placement {
        cgroup::await_placement(plan.link)?;
    }
    at(Step::ReadLaunch);
    let launch = launch::read(plan.launch)?;
    let seccomp = launch::read_seccomp(plan.seccomp, launch.seccomp_flags)?;
    // The host's paths exist only here, and only the initial user namespace may id-map a mount.
    at(Step::OpenSources);
    let user_namespace = join::user_namespace(plan.holder, &launch)?;
    let sources = sources::open(&launch, user_namespace.as_ref())?;
    at(Step::MakeRoot);
    let root = rootfs::make(&launch, user_namespace.as_ref())?;
    drop(user_namespace);
    let mut hooks = None;
    if plan.hooks.is_some() {
        at(Step::MakeBundle);
        hooks = hooks::inside::prepare(plan, &launch)?;
    }
    // Here, because a user namespace may not make device nodes, and a mount of its own may not show any.
    at(Step::MakeDevices);
    // mknod(2) takes it off the mode of a node. What we make from here on names the mode that it shall have; the
    // container gets its own umask with its user.
    rustix::process::umask(Mode::empty());
    let devices = devices::make(&launch)?;
    let hidden = hide::prepare(&launch)?;
    // For stdio, of the container and of its execs.
    let null = null::of(devices.as_ref())?;
    tell(plan.link, &Report::Null, null.as_fd())?;
    let cgroups = cgroup::layout(&launch)?;
    // In the host's /proc, which we trust; inside, /proc belongs to the image until we have mounted our own.
    let warnings = oom::adjust(launch::process(&launch)?)?;
    identity::raise_limits(launch::process(&launch)?);

    let mut taken = Taken { launch, seccomp, sources, root, hooks, devices, hidden, cgroups, warnings };
    // Nothing of the host may be open or mounted when the pod can see us: a container of the pod with SYS_PTRACE in a
    // shared pid namespace reads /proc/PID/fd and /proc/PID/root.
    at(Step::JoinPod);
    taken.close_the_rest(plan, null)?;
    join::pod(plan, &taken.launch)?;
    // Born with its own pid and mount namespaces after the pod's user namespace was joined: made before, they would
    // belong to the host's, and proc, mqueue and tmpfs could not be mounted in them. It is the shim's child, because
    // the shim has to reap it.
    at(Step::OwnNamespaces);
    let namespaces = taken.launch.own & (ns::NEWNS | ns::NEWPID);
    match fork(Birth { namespaces, sibling: true, cgroup: None }).or_fail("clone container init")? {
        Forked::Parent(_) => Ok(()),
        Forked::Child => end(plan.link, Some(plan.progress), inside(plan, &mut taken)),
    }
}

/// What stage 1 takes along into the pod.
pub struct Taken {
    /// What to run.
    pub launch: launch::Launch,
    /// The seccomp program.
    pub seccomp: Option<process::Filter>,
    /// Mount sources, by their place in the spec's list.
    pub sources: sources::Sources,
    /// The root, detached.
    pub root: OwnedFd,
    /// Socket to the process that runs createContainer hooks, if there are any.
    pub hooks: Option<OwnedFd>,
    /// /dev, detached.
    pub devices: Option<devices::Devices>,
    /// What hides paths, detached.
    pub hidden: hide::Hidden,
    /// Which cgroup mounts to make.
    pub cgroups: cgroup::Layout,
    /// What could not be had.
    pub warnings: Vec<String>,
}

impl Taken {
    fn close_the_rest(&self, plan: &Plan<'_>, null: OwnedFd) -> Result<()> {
        let mut kept = vec![plan.link.as_raw_fd(), plan.holder.as_raw_fd(), self.root.as_raw_fd()];
        kept.extend(plan.pid_target.map(|fd| fd.as_raw_fd()));
        kept.extend(self.sources.descriptors());
        kept.extend(self.devices.iter().map(|devices| devices.mount.as_raw_fd()));
        kept.extend(self.hidden.descriptors());
        kept.extend(self.cgroups.descriptors());
        kept.extend(plan.hooks.map(|fd| fd.as_raw_fd()));
        kept.extend(self.hooks.iter().map(AsRawFd::as_raw_fd));
        kept.extend(plan.stdio.descriptors());
        close_the_host(kept, null)
    }
}

/// Stage 2: in the pod, as the container's first process.
fn inside(plan: &Plan<'_>, taken: &mut Taken) -> Result<()> {
    let at = |step| plan.progress.at(step);
    born(plan.link)?;
    let launch = &taken.launch;
    let process = launch::process(launch)?;
    // A copy of the holder's few mounts, private so that none of ours shows in the holder.
    at(Step::AttachRoot);
    let root = rootfs::attach(taken)?;
    // After stage 1 has joined every hierarchy: the cgroups that we are in now are what the namespace shows as `/`. And
    // before the cgroup mounts, which show the namespace that they are made in.
    if launch.own & ns::NEWCGROUP != 0 {
        ns::unshare(ns::NEWCGROUP).or_fail("unshare cgroup namespace")?;
    }
    // In the order of the spec: a later mount may lie in an earlier one.
    at(Step::Mounts);
    let made = mounts::make(taken, &root)?;
    devices::outside_dev(launch, &root, taken.hidden.scratch.as_ref())?;
    command::make_directory(process.cwd(), &root);
    let mut terminal = console::make(plan, process, &root, &made)?;
    // Through our own procfs, before parts of it become read-only.
    sysctl::apply(launch, &made)?;
    // After all mounts, so that none of them uncovers what is hidden.
    at(Step::Hide);
    hide::apply(launch, &root, &taken.hidden)?;
    // The image's files, while the root is still something that we look into and not something that we are in.
    at(Step::FindUser);
    let user = user::find(launch, &root)?;
    if let Some(runner) = plan.hooks {
        at(Step::Hooks);
        hooks::inside::enter(launch, runner, taken.hooks.as_ref(), root, terminal.as_mut())?;
    } else {
        at(Step::Pivot);
        rootfs::enter(launch, root)?;
    }
    // The rest is about this process alone.
    at(Step::BecomeUser);
    let mut command = command::prepare(process, &launch.raw_env, &user.home)?;
    console::take_stdio(plan.stdio, terminal.as_ref(), &user)?;
    let master = terminal.map(|terminal| terminal.master);
    // On exec, and kept until then, through our own procfs; it is known by descriptor.
    command::set_label(process, made.proc.as_ref().map(AsFd::as_fd))?;
    drop(made);
    // The net below every O_CLOEXEC: nothing but stdio reaches the command. Before the working directory, which may be
    // written as /proc/self/fd/N.
    let mut kept = vec![0, 1, 2, plan.link.as_raw_fd()];
    kept.extend(master.iter().map(AsRawFd::as_raw_fd));
    process::close_all_but(&mut kept).or_fail("close what is not stdio")?;
    let directory = command::change_directory(process.cwd());
    let bounding = plan.bounding.of_child(launch::has_user_namespace(launch));
    let mut identity = identity::Identity::of(process, &user, taken.seccomp.is_some(), bounding)?;
    let lowered = identity.become_user()?;
    let directory = command::change_directory_again(directory, process.cwd());

    at(Step::Gate);
    let ready = Ready {
        user,
        uid_map: launch.uid_map.clone(),
        gid_map: launch.gid_map.clone(),
        warnings: [std::mem::take(&mut taken.warnings), lowered].concat(),
    };
    link::report(plan.link, &Report::Ready(ready), master.as_ref().map(AsFd::as_fd))
        .map_err(|e| crate::fault::internal("report to the shim", e.to_string()))?;
    drop(master);
    link::await_byte(plan.link, link::GO).or_fail("wait at the gate")?;
    // After the gate only what a profile that forbids everything but execve still allows.
    at(Step::Run);
    directory?;
    if plan.hooks.is_some() {
        hooks::inside::before_command(plan, launch)?;
    }
    command.locate()?;
    identity.last_steps(taken.seccomp.as_ref())?;
    Err(command.run(plan.progress))
}

/// Closes everything but `kept`. Descriptors 0, 1 and 2 become `null`: were they free, the next ones to be opened would take
/// their numbers, and setting up stdio would overwrite them.
pub fn close_the_host(mut kept: Vec<RawFd>, null: OwnedFd) -> Result<()> {
    const STAGE: &str = "close what the container does not need";
    null::take(&null).or_fail(STAGE)?;
    drop(null);
    kept.extend([0, 1, 2]);
    process::close_all_but(&mut kept).or_fail(STAGE)
}

/// The first thing that a process does which will run a command: the shim must know it before it can end.
fn born(link: BorrowedFd<'_>) -> Result<()> {
    let me = pidfd::open(std::process::id().cast_signed()).or_fail("open our own pidfd")?;
    tell(link, &Report::Born, me.as_fd())
}

/// A report that brings a descriptor.
fn tell(link: BorrowedFd<'_>, report: &Report, fd: BorrowedFd<'_>) -> Result<()> {
    link::report(link, report, Some(fd))
        .map_err(|e| crate::fault::internal("report to the shim", e.to_string()))
}

/// A directory that paths are resolved in.
pub fn root_of(mount: &OwnedFd) -> Result<Root> {
    mount.try_clone().map(Root::new).or_fail("duplicate the root's descriptor")
}
