//! containerd and runc, built from their Go modules, with the CNI plugins of Debian's package: the peer to compare with.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::table::Figure;
use crate::{
    images,
    place::{self, Place},
    run::{command, loud, quiet, step},
    tools,
    work::{Work, once},
};

/// Of containerd.
pub const VERSION: &str = "2.4.2";
/// The processes that stand for a pod, behind the daemon.
const PROCESSES: &str = "containerd,containerd-shim-runc-v2,pause";

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

/// Starts containerd, runs the client, and ends all of it.
pub fn measure(work: &Work, image: &Path, args: &[String]) -> Result<Vec<Figure>> {
    let place = Place::bare(work, "peer")?;
    let outcome = (|| {
        fs::write(place.config(), configuration(work, &place)?)
            .context("write containerd's configuration")?;
        let network = place.state().join("net.d");
        fs::create_dir(&network).context("make a folder for CNI")?;
        fs::write(network.join("10-bench.conflist"), conf_list(&place))
            .context("write a CNI configuration")?;
        let mut containerd = start(work, &place)?;
        let figures = super::serves(&mut containerd, &place.socket(), &place.log())
            .and_then(|()| import(work, &place, image))
            .and_then(|()| {
                let parent = place.cgroup_parent();
                let own = ["--processes", PROCESSES, "--transports", "spdy", "--cgroup-parent", &parent];
                super::client(work, &place, containerd.id(), &own, args)
            });
        let ended = end(&mut containerd);
        figures.and_then(|figures| ended.map(|()| figures))
    })();
    let cleaned = if outcome.is_ok() { place.remove() } else { Ok(()) };
    outcome.and_then(|figures| cleaned.map(|()| figures))
}

/// In namespaces of its own, so that nothing of it outlives the first process there; that one is a shell, to reap what
/// loses its parent.
fn start(work: &Work, place: &Place) -> Result<Child> {
    let dir = work.tools().join("containerd");
    let log = File::create(place.log()).context("create containerd's log")?;
    let copy = log.try_clone().context("open containerd's log")?;
    let mut unshare =
        command("unshare", ["--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--", "sh", "-c"]);
    unshare.args(["\"$@\" & wait", "sh"]).arg(dir.join("containerd")).arg("--config").arg(place.config());
    unshare.env("PATH", place::path_with(&dir)).stdin(Stdio::null()).stdout(log).stderr(copy);
    unshare.spawn().context("start containerd")
}

/// unshare hands no signal on but ends its child when it is killed.
fn end(unshare: &mut Child) -> Result<()> {
    unshare.kill().context("end containerd")?;
    unshare.wait().map(drop).context("wait for containerd")
}

fn import(work: &Work, place: &Place, image: &Path) -> Result<()> {
    let pause = images::pause(work)?;
    for archive in [image, pause.as_path()] {
        let mut ctr = command(work.tools().join("containerd/ctr"), ["--address"]);
        ctr.arg(place.socket()).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        loud(ctr.stdout(Stdio::null()))?;
    }
    Ok(())
}

fn configuration(work: &Work, place: &Place) -> Result<String> {
    let state = place.state().display();
    Ok(format!(
        r#"version = 3
root = "{root}"
state = "{state}/run"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
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
        root = place.root().join("data").display(),
        socket = place.socket().display(),
        pause = images::PAUSE,
        plugins = tools::cni_plugins(work).display(),
        runc = tools::runc(work)?.display(),
        systemd = place::has_systemd(),
    ))
}

/// What a node usually has: a bridge, addresses from a file, and host ports.
fn conf_list(place: &Place) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "bench",
        "plugins": [
            {
                "type": "bridge", "bridge": "hfpeer0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": place.state().join("addresses"),
                    "ranges": [[{"subnet": "10.213.8.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}
