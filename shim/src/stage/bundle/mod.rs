//! A container for another OCI runtime: the bundle, and the process that becomes its `create`.
//!
//! One process, in the shim's own cgroup (the runtime enters the container's) and in a mount namespace of its own, which
//! ends with the runtime's command: the container has its copy by then.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_pod::oci_runtime::OciRuntime;
use holdfast_pod::protocol::{Create, Failure, ResolvedUser};
use holdfast_sys::path::{Kind, Root};
use holdfast_sys::{mount, pidfd};

use super::launch::{self, Launch, has_user_namespace, root_is_read_only};
use super::runtime::become_runtime;
use super::sources::{self, Source};
use super::unseen::Unseen;
use super::{Stdio, end, files, join, root_of, rootfs, user};
use crate::fault::{OrFail, Result, internal, invalid};
use crate::link::{self, Progress, Ready, Report, Step, host_id};

pub mod config;
pub mod fit;

use config::{Bundle, Volume};

/// Where the runtime writes init's pid, in the bundle.
pub const PID_FILE: &str = "init.pid";
/// Its log.
pub const LOG: &str = "runtime.log";
/// Where it connects to with the container's terminal.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// All that the process is given.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What the shim was asked for.
    pub create: &'a Create,
    /// The runtime.
    pub runtime: &'a OciRuntime,
    /// [`holdfast_pod::launch::Launch`].
    pub launch: BorrowedFd<'a>,
    /// The container's state directory.
    pub state_dir: BorrowedFd<'a>,
    /// pidfd of the holder.
    pub holder: BorrowedFd<'a>,
    /// pidfd of the init whose pid namespace is joined.
    pub pid_target: Option<BorrowedFd<'a>>,
    /// The container's stdio.
    pub stdio: &'a Stdio,
    /// Our end of the link.
    pub link: BorrowedFd<'a>,
    /// How far we are.
    pub progress: &'a Progress,
}

/// Makes the bundle and becomes the runtime's `create`.
pub fn run(plan: &Plan<'_>) -> ! {
    end(plan.link, Some(plan.progress), make(plan))
}

fn make(plan: &Plan<'_>) -> Result<()> {
    let at = |step| plan.progress.at(step);
    at(Step::OpenFiles);
    files::open(plan.create, plan.state_dir, plan.link)?;
    at(Step::ReadLaunch);
    let mut launch = launch::read(plan.launch)?;
    refuse_raw_variables(&launch)?;
    // On the host, as long as we are in its mount namespace.
    at(Step::MakeRoot);
    let user_namespace = join::user_namespace(plan.holder, &launch)?;
    let tree = rootfs::make(&launch, user_namespace.as_ref())?;
    let shm = if launch.pod_shm { Some(pod_shm(plan.holder)?) } else { None };
    at(Step::OpenSources);
    let images = sources::open_images(&launch, user_namespace.as_ref())?;
    sources::make_missing(&launch)?;
    sources::relabel(&launch)?;
    let root = root_of(&tree)?;
    at(Step::FindUser);
    let user = user::find(&launch, &root)?;

    at(Step::MakeBundle);
    open_to_its_root(&plan.create.bundle, &launch)?;
    let unseen = Unseen::begin(&plan.create.bundle)?;
    let bundle = Bundle {
        rootfs: unseen.attach(&tree, "rootfs")?,
        shm: shm.map(|shm| unseen.attach(shm, "shm")).transpose()?,
        volumes: volumes(&launch, &root, &unseen)?,
        images: attached(&images, &unseen)?,
        pids: Pids::of(plan.holder, plan.pid_target)?,
    };
    let mut warnings: Vec<String> = unseen.end()?.into_iter().collect();
    warnings.extend(write_config(plan, &mut launch, &bundle, &user)?);
    let ready = Ready { user, uid_map: launch.uid_map, gid_map: launch.gid_map, warnings };
    link::report(plan.link, &Report::Ready(ready), None)
        .map_err(|e| internal("report to the shim", e.to_string()))?;
    at(Step::RunRuntime);
    Err(become_create(plan))
}

fn become_create(plan: &Plan<'_>) -> Failure {
    let path = |name: &str| plan.create.bundle.join(name);
    let mut arguments = plan.runtime.arguments(&path(LOG), ["create", "--bundle"]);
    arguments.push(plan.create.bundle.clone().into());
    arguments.extend(["--pid-file".into(), path(PID_FILE).into()]);
    if plan.create.tty {
        // Relative to the bundle, where we are: a socket's path has room for 107 bytes only.
        arguments.extend(["--console-socket".into(), CONSOLE_SOCKET.into()]);
    }
    arguments.push(plan.create.id.clone().into());
    let stdio = match plan.stdio {
        Stdio::Three(three) => Some(three),
        Stdio::Terminal => None,
    };
    become_runtime(plan.runtime, arguments, &plan.create.bundle, stdio, Some(plan.link))
}

/// JSON holds no bytes that are not UTF-8; our own stages get them beside the spec.
fn refuse_raw_variables(launch: &Launch) -> Result<()> {
    let Some(first) = launch.raw_env.first() else { return Ok(()) };
    let name = first.split(|byte| *byte == b'=').next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let text = format!(
        "variable {name:?} is not UTF-8, which an OCI bundle cannot hold: change it, or use the built-in handler"
    );
    Err(invalid("make the bundle", text))
}

/// The pod's /dev/shm, out of the holder's mounts.
fn pod_shm(holder: BorrowedFd<'_>) -> Result<OwnedFd> {
    const STAGE: &str = "copy the pod's /dev/shm";
    join::in_mounts_of(holder, || mount::copy_path(Path::new("/dev/shm"), false).or_fail(STAGE))
}

/// The container's root, who is nobody to the host, has to reach its own root by path.
pub fn open_to_its_root(bundle: &Path, launch: &Launch) -> Result<()> {
    const STAGE: &str = "open the bundle to the container's root";
    if !has_user_namespace(launch) {
        return Ok(());
    }
    std::os::unix::fs::chown(bundle, None, Some(host_id(&launch.gid_map, 0))).or_fail(STAGE)?;
    fs::set_permissions(bundle, fs::Permissions::from_mode(0o710)).or_fail(STAGE)
}

/// The image's volumes: directories of the root. Where the root will be read-only each is mounted once more, from
/// beside it, and stays writable.
fn volumes(launch: &Launch, root: &Root, unseen: &Unseen) -> Result<Vec<Volume>> {
    let mut mounts = Vec::new();
    for (number, path) in launch.volumes.iter().enumerate() {
        let stage = format!("make volume {}", path.display());
        let place =
            root.ensure(path, Kind::Directory).or_invalid(&stage, "it has to be a directory in the image")?;
        if root_is_read_only(launch) {
            let own = mount::copy_tree(place.as_fd(), Path::new(""), false).or_fail(&stage)?;
            let source: PathBuf = unseen.attach(own, &format!("volume-{number}"))?;
            mounts.push(Volume { source, target: path.clone() });
        }
    }
    Ok(mounts)
}

/// Images that are mounted, by their places in the spec's list.
fn attached(images: &[(usize, Source)], unseen: &Unseen) -> Result<Vec<(usize, PathBuf)>> {
    let one = |(place, source): &(usize, Source)| {
        let kind = if source.directory { Kind::Directory } else { Kind::File };
        Ok((*place, unseen.attach_at(&source.tree, &format!("image-{place}"), kind)?))
    };
    images.iter().map(one).collect()
}

/// Processes that namespaces are named by.
#[derive(Debug, Clone, Copy)]
pub struct Pids {
    /// The holder.
    pub holder: i32,
    /// The init whose pid namespace is joined.
    pub target: Option<i32>,
}

impl Pids {
    /// Looks them up.
    pub fn of(holder: BorrowedFd<'_>, target: Option<BorrowedFd<'_>>) -> Result<Self> {
        Ok(Self { holder: pid_of(holder)?, target: target.map(pid_of).transpose()? })
    }
}

fn pid_of(process: BorrowedFd<'_>) -> Result<i32> {
    const STAGE: &str = "find the process whose namespaces are joined";
    let pid = pidfd::pid_of(process).or_fail(STAGE)?;
    pid.ok_or_else(|| internal(STAGE, "it has ended: is the pod being stopped?"))
}

fn write_config(
    plan: &Plan<'_>,
    launch: &mut Launch,
    bundle: &Bundle,
    user: &ResolvedUser,
) -> Result<Vec<String>> {
    const STAGE: &str = "write config.json";
    config::complete(launch, bundle, plan.runtime, user);
    let mut warnings = Vec::new();
    if let Some(process) = launch.spec.process_mut() {
        warnings = fit::fit(process)?;
    }
    let bytes = serde_json::to_vec(&launch.spec).map_err(|e| internal(STAGE, e.to_string()))?;
    fs::write(plan.create.bundle.join("config.json"), bytes).or_fail(STAGE)?;
    Ok(warnings)
}
