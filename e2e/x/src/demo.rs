//! `cargo x demo`: from a clone to a pod's greeting.

use std::{fs, path::Path, process};

use anyhow::{Context, Result};

use crate::{
    apt, build, host, images,
    run::{command, loud, shown, step},
    work::Work,
};

/// Builds all, runs the sample pod, and cleans up.
pub fn demo(work: &Work) -> Result<()> {
    host::check(host::DEMO, &apt::missing(apt::BUILD))?;
    apt::install(work, apt::BUILD)?;
    build::programs(work)?;
    let image = images::demo(work)?;
    let place = Place::make(work)?;
    let outcome = run(work, &place, &image);
    let cleaned = place.remove();
    outcome.and(cleaned)
}

/// Directories of the demo's own, so that it meets no agent of this machine.
struct Place {
    root: std::path::PathBuf,
    state: std::path::PathBuf,
}

impl Place {
    fn make(work: &Work) -> Result<Self> {
        let root = work.dir(&format!("demo-{}", process::id()))?;
        // Sockets have short names: not under a target directory that may lie deep.
        let state = std::path::PathBuf::from(format!("/run/holdfast-demo-{}", process::id()));
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        fs::write(root.join("config.toml"), config(&root, &state))
            .context("write the demo's configuration")?;
        Ok(Self { root, state })
    }

    fn remove(&self) -> Result<()> {
        for dir in [&self.root, &self.state] {
            fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Gone already, not ours, or no cgroup at all: all the same here.
            let _ = fs::remove_dir(hierarchy.path().join(CGROUP));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(CGROUP));
        Ok(())
    }
}

const CGROUP: &str = "holdfast-demo";

fn config(root: &Path, state: &Path) -> String {
    let parent =
        if Path::new("/run/systemd/system").exists() { "holdfastdemo.slice" } else { "/holdfast-demo" };
    format!(
        "root = \"{}\"\nstate = \"{state}\"\nlisten = \"unix://{state}/holdfast.sock\"\nlog_level = \"warn\"\n\
         default_cgroup_parent = \"{parent}\"\n\
         [network.cni]\nconf_dir = \"{state}/no-cni\"\n\
         [network.embedded]\nbridge = \"hfdemo0\"\nsubnets = [\"10.213.7.0/24\", \"fd6b:6f6c:6466::/64\"]\n",
        root.join("data").display(),
        state = state.display(),
    )
}

/// In a network namespace of its own: the bridge and the rules go with it, and no address of the host is in the way.
fn run(work: &Work, place: &Place, image: &Path) -> Result<()> {
    let config = place.root.join("config.toml");
    let holdfast = work.release("holdfast");
    step("importing the sample image", || {
        loud(command(&holdfast, ["image", "import", "--config"]).arg(&config).arg(image))
    })?;
    let manifest = work.repo.join("manifests/demo-pod.yaml");
    let mut run = command("unshare", ["--net", "--"]);
    run.arg(&holdfast).args(["run", "--config"]).arg(&config).arg(&manifest);
    println!("==> {}", shown(&run));
    loud(&mut run)
}
