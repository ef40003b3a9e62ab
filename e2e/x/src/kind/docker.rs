//! Docker of Debian's packages, not installed: it runs in network, pid and mount namespaces of its own, with directories and a
//! parent cgroup of its own. All of it ends with the first process there.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::{
    apt,
    run::{command, first_child, loud, output, step},
    work::{Work, once},
};

/// Packages of the daemon, the client and what they start.
const PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];
/// Raised when what is unpacked changes.
const GENERATION: &str = "1";
/// Limit of the daemon's start and of its end.
const LIMIT: Duration = Duration::from_mins(1);
/// Its bit in the sets of capabilities (capability.h).
pub const CAP_SYS_RESOURCE: u32 = 24;
/// Name of the parent cgroup of all its containers, in every hierarchy.
const CGROUP: &str = "holdfast-kind";

/// A running daemon.
#[derive(Debug)]
pub struct Docker {
    tools: PathBuf,
    root: PathBuf,
    state: PathBuf,
    unshare: Child,
    /// The first process of the namespaces.
    init: u32,
    daemon: Option<Child>,
}

/// Unpacks the packages with their libraries.
pub fn prepare(work: &Work) -> Result<()> {
    apt::install(work, &["iptables", "iproute2", "procps", "xz-utils"])?;
    let dir = tools(work);
    once(&work.tools().join("docker.stamp"), GENERATION, || {
        step("unpacking Docker", || {
            for package in PACKAGES {
                apt::unpack(work, package, &dir)?;
                for library in apt::libraries(work, package)? {
                    // Another C library than the machine's would fit no other program.
                    if library != "libc6" {
                        apt::unpack(work, &library, &dir)?;
                    }
                }
            }
            Ok(())
        })
    })
}

/// Directory of the unpacked packages.
pub fn tools(work: &Work) -> PathBuf {
    work.tools().join("docker")
}

impl Docker {
    /// Starts it and waits until it answers. Its data lie below the cache, for as long as it runs.
    pub fn start(work: &Work) -> Result<Self> {
        let root = work.dir(&format!("kind-{}", std::process::id()))?;
        // Sockets have short names.
        let state = PathBuf::from(format!("/run/holdfast-kind-{}", std::process::id()));
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        // The shell reaps what loses its parent.
        let init = "ip link set lo up; while :; do sleep 3600 & wait $!; done";
        let mut unshare = command(
            "unshare",
            ["--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--", "sh", "-c", init],
        );
        let unshare = unshare.stdin(Stdio::null()).spawn().context("make namespaces for Docker")?;
        let mut docker = Self { tools: tools(work), root, state, init: 0, unshare, daemon: None };
        docker.init = first_child(docker.unshare.id())?;
        let runtime = docker.runtime()?;
        let configuration = json!({
            "data-root": docker.root.join("data"),
            "exec-root": docker.state.join("exec"),
            "pidfile": docker.state.join("pid"),
            "hosts": [docker.endpoint()],
            "cgroup-parent": format!("/{CGROUP}"),
            "default-cgroupns-mode": "private",
            // With systemd's, a parent cgroup had to be one of systemd's slices.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "log-level": "warn",
            "runtimes": {"holdfast-kind": {"path": runtime}},
            "default-runtime": "holdfast-kind",
        });
        fs::write(docker.root.join("daemon.json"), configuration.to_string()).context("configure Docker")?;
        docker.start_daemon()?;
        Ok(docker)
    }

    /// Starts the daemon, again perhaps.
    pub fn start_daemon(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log()).context("open Docker's log")?;
        let copy = log.try_clone().context("open Docker's log")?;
        let mut daemon = self.command(self.tools.join("usr/sbin/dockerd"));
        daemon.arg("--config-file").arg(self.root.join("daemon.json"));
        daemon.env("LD_LIBRARY_PATH", self.tools.join("usr/lib/x86_64-linux-gnu"));
        daemon.stdin(Stdio::null()).stdout(log).stderr(copy);
        self.daemon = Some(daemon.spawn().context("start dockerd")?);
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(self.socket()).is_err() || output(&mut self.docker(["version"])).is_err() {
            let ended = self.daemon.as_mut().map(Child::try_wait).transpose().context("wait for dockerd")?;
            if ended.flatten().is_some() || Instant::now() > deadline {
                bail!("Docker does not answer; see {}", self.log().display());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the daemon as its unit does; containers end with it.
    pub fn stop_daemon(&mut self) -> Result<()> {
        let text = fs::read_to_string(self.state.join("pid")).context("read dockerd's pid")?;
        // As it is numbered in there, where 1 is the shell that holds all of it.
        let pid = text.trim().parse::<u32>().ok().filter(|pid| *pid > 1);
        let pid = pid.with_context(|| format!("dockerd's pid file says {text:?}"))?;
        loud(&mut self.command_of("kill", [pid.to_string()]))?;
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let deadline = Instant::now() + LIMIT;
        while daemon.try_wait().context("wait for dockerd")?.is_none() {
            ensure!(Instant::now() < deadline, "dockerd does not end; see {}", self.log().display());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A command of docker.
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        self.command_of(self.tools.join("usr/bin/docker"), args)
    }

    /// A command in the daemon's namespaces that talks to it.
    pub fn command_of<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = self.command(program);
        command.args(args);
        command
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let target = self.init.to_string();
        let mut nsenter = command("nsenter", ["--target", &target, "--net", "--pid", "--mount", "--"]);
        nsenter.arg(program).env("DOCKER_HOST", self.endpoint()).env("PATH", self.path());
        nsenter.env("DOCKER_CONFIG", self.root.join("client"));
        nsenter
    }

    /// For what is large, and for logs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The first process of the namespaces.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.root.join("docker.log")
    }

    /// The address on which it listens.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Ends all of it, and removes what it has on disk and its cgroups.
    pub fn end(mut self) -> Result<()> {
        self.unshare.kill().context("end Docker")?;
        self.unshare.wait().context("wait for the end of Docker")?;
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().context("wait for the end of dockerd")?;
        }
        remove_cgroups()?;
        for dir in [&self.root, &self.state] {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.state.join("docker.sock")
    }

    fn path(&self) -> std::ffi::OsString {
        let dirs = ["usr/bin", "usr/sbin"].map(|dir| self.tools.join(dir));
        let machine = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let all = dirs.into_iter().chain(std::env::split_paths(&machine)).chain(sbin);
        std::env::join_paths(all).unwrap_or(machine)
    }

    /// runc, or a wrapper of it. A privileged container asks for all capabilities that the kernel knows, and this machine may
    /// lack one that kind can do without.
    fn runtime(&self) -> Result<PathBuf> {
        let runc = self.tools.join("usr/sbin/runc");
        if may_have(CAP_SYS_RESOURCE)? {
            return Ok(runc);
        }
        let wrapper = self.root.join("runc");
        let text = WRAPPER.replace("RUNC", &runc.to_string_lossy());
        fs::write(&wrapper, text).context("write a wrapper of runc")?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("make it a program")?;
        Ok(wrapper)
    }
}

const WRAPPER: &str = r#"#!/bin/sh
# runc without CAP_SYS_RESOURCE, which this machine does not have: for containers, and for commands in them.
previous= file=
for word; do
    case "$previous" in
    --bundle) file=$word/config.json ;;
    --process) file=$word ;;
    esac
    previous=$word
done
if [ -f "$file" ]; then
    sed -i -e 's/,"CAP_SYS_RESOURCE"//g' -e 's/"CAP_SYS_RESOURCE",//g' "$file"
fi
exec RUNC "$@"
"#;

/// Whether a capability is in our bounding set (capabilities(7)).
pub fn may_have(capability: u32) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("read our status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd")?;
    let set = u64::from_str_radix(line.trim(), 16).context("read CapBnd")?;
    Ok(set >> capability & 1 == 1)
}

/// The group of a container that accounts its memory.
pub fn cgroup_of(id: &str) -> Result<PathBuf> {
    let mut groups = cgroups()?.into_iter().map(|group| group.join(id));
    let found = groups.find(|group| group.join("memory.stat").exists());
    found.with_context(|| format!("container {id} has no cgroup below {CGROUP}"))
}

/// The parent cgroup of all containers, in every hierarchy that has it.
pub fn cgroups() -> Result<Vec<PathBuf>> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).context("list the cgroup hierarchies")?.flatten();
    let groups = hierarchies.map(|entry| entry.path()).chain([top.to_owned()]).map(|dir| dir.join(CGROUP));
    Ok(groups.filter(|group| group.is_dir()).collect())
}

/// The deepest groups first. Nothing is in them any more.
fn remove_cgroups() -> Result<()> {
    for group in cgroups()? {
        remove_tree(&group).with_context(|| format!("remove cgroup {}", group.display()))?;
    }
    Ok(())
}

fn remove_tree(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + LIMIT;
    // The kernel takes a moment to see the last process off.
    while let Err(error) = fs::remove_dir(group) {
        if error.raw_os_error() != Some(16) || Instant::now() > deadline {
            return Err(error.into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
