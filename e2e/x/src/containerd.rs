//! containerd and runc, built from their Go modules, with the CNI plugins of Debian's package: the peer that the benchmark
//! compares with, and that the end-to-end tests are tested against.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    images,
    place::{self, Place},
    run::{command, first_child, loud, quiet, step},
    tools,
    work::{Work, once},
};

/// Of containerd.
pub const VERSION: &str = "2.4.2";

/// A running containerd, in network, pid and mount namespaces of its own: nothing of it outlives the first process there.
#[derive(Debug)]
pub struct Containerd {
    /// Its directories.
    pub place: Place,
    unshare: Child,
}

/// Builds both.
pub fn build(work: &Work) -> Result<()> {
    tools::cni(work)?;
    let dir = work.dir("tools/containerd")?;
    once(&work.tools().join("containerd.stamp"), VERSION, || {
        step(&format!("building containerd {VERSION}"), || {
            let module =
                tools::go_module(work, "github.com/containerd/containerd/v2", &format!("v{VERSION}"))?;
            let log = work.dir("logs")?.join("containerd.log");
            let version = format!("-s -w -X github.com/containerd/containerd/v2/version.Version=v{VERSION}");
            let mut build =
                tools::go(&module, ["build", "-trimpath", "-buildvcs=false", "-tags", "no_btrfs"]);
            build.args(["-ldflags", &version, "-o"]).arg(&dir);
            quiet(build.args(["./cmd/containerd", "./cmd/containerd-shim-runc-v2", "./cmd/ctr"]), &log)
        })
    })?;
    tools::runc(work).map(drop)
}

/// Directories and a configuration of its own; `name` is a short word.
pub fn configure(work: &Work, name: &str) -> Result<Place> {
    let place = Place::bare(work, name)?;
    fs::write(place.config(), configuration(work, &place)?).context("write containerd's configuration")?;
    for dir in [network(&place), mirrors(&place)] {
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    }
    fs::write(network(&place).join("10-peer.conflist"), conf_list(&place))
        .context("write a CNI configuration")?;
    Ok(place)
}

impl Containerd {
    /// Starts it with directories of its own; `name` is a short word. The pause image is there.
    pub fn start(work: &Work, name: &str) -> Result<Self> {
        let place = configure(work, name)?;
        let unshare = spawn(work, &place)?;
        let mut containerd = Self { place, unshare };
        let ready = containerd.serves().and_then(|()| containerd.import(work, &images::pause(work)?));
        match ready {
            Ok(()) => Ok(containerd),
            // Its directories stay: the log says why.
            Err(error) => {
                let _ = containerd.stop();
                Err(error)
            }
        }
    }

    /// The first process of its namespaces' parent, in its network namespace.
    pub fn pid(&self) -> u32 {
        self.unshare.id()
    }

    /// The first process in its pid namespace, as the host numbers it.
    pub fn init(&self) -> Result<u32> {
        first_child(self.pid())
    }

    /// Directory in which it looks for a `hosts.toml` of a registry.
    pub fn mirrors(&self) -> PathBuf {
        mirrors(&self.place)
    }

    /// Takes the images of an archive.
    pub fn import(&self, work: &Work, archive: &Path) -> Result<()> {
        let mut ctr = command(work.tools().join("containerd/ctr"), ["--address"]);
        ctr.arg(self.place.socket()).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        loud(ctr.stdout(Stdio::null()))
    }

    /// Ends it and all that it started, and removes its directories.
    pub fn end(mut self) -> Result<()> {
        self.stop()?;
        self.place.remove()
    }

    /// Ends it and all that it started; its directories stay, with what it has imported.
    pub fn leave(mut self) -> Result<Place> {
        self.stop()?;
        Ok(self.place)
    }

    /// unshare hands no signal on but ends its child when it is killed.
    fn stop(&mut self) -> Result<()> {
        self.unshare.kill().context("end containerd")?;
        self.unshare.wait().map(drop).context("wait for containerd")
    }

    fn serves(&mut self) -> Result<()> {
        place::serves(&mut self.unshare, &self.place.socket(), &self.place.log())
    }
}

fn network(place: &Place) -> PathBuf {
    place.state().join("net.d")
}

/// Directory in which it looks for a `hosts.toml` of a registry.
pub fn mirrors(place: &Place) -> PathBuf {
    place.state().join("certs.d")
}

/// Directories of what it keeps: images, snapshots and records, what dies with the boot, addresses of its pods.
pub fn directories(place: &Place) -> [PathBuf; 3] {
    [place.root().join("data"), place.state().join("run"), addresses(place)]
}

fn addresses(place: &Place) -> PathBuf {
    place.state().join("addresses")
}

fn spawn(work: &Work, place: &Place) -> Result<Child> {
    let log = File::create(place.log()).context("create containerd's log")?;
    let copy = log.try_clone().context("open containerd's log")?;
    let mut unshare = in_namespaces(work);
    unshare.args(words(work, place)).stdin(Stdio::null()).stdout(log).stderr(copy);
    unshare.spawn().context("start containerd")
}

/// The words that start containerd.
pub fn words(work: &Work, place: &Place) -> [OsString; 3] {
    let program = work.tools().join("containerd/containerd");
    [program.into(), "--config".into(), place.config().into()]
}

/// A command, to be completed by a program and its arguments, with new net, pid and mount namespaces for containerd. The
/// first process in the pid namespace is a shell, to reap what loses its parent.
pub fn in_namespaces(work: &Work) -> Command {
    let mut unshare =
        command("unshare", ["--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--", "sh", "-c"]);
    unshare.args(["ip link set lo up; \"$@\" & wait $!", "sh"]);
    unshare.env("PATH", place::path_with(&work.tools().join("containerd")));
    unshare
}

fn configuration(work: &Work, place: &Place) -> Result<String> {
    let state = place.state().display();
    Ok(format!(
        r#"version = 3
root = "{root}"
state = "{run}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{mirrors}"
[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE it could start nothing.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{state}/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = {systemd}
"#,
        root = directories(place)[0].display(),
        run = directories(place)[1].display(),
        socket = place.socket().display(),
        pause = images::PAUSE,
        mirrors = mirrors(place).display(),
        plugins = tools::cni_plugins(work).display(),
        runc = tools::runc(work)?.display(),
        systemd = place::has_systemd(),
    ))
}

/// CNI configuration that a node usually has: a bridge, addresses from a file, and host ports.
fn conf_list(place: &Place) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "peer",
        "plugins": [
            {
                "type": "bridge", "bridge": "hfpeer0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses(place),
                    "ranges": [[{"subnet": "10.213.8.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}
