//! The node image: Debian with systemd, the files of kind's base image, Kubernetes' programs, and Holdfast in containerd's place.
//! An archive for `docker load`.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{images, storage::Storage};
use crate::{
    build::{PROGRAMS, Profile},
    debian::{self, link},
    kubernetes::{self, VERSION},
    oci::Platform,
    run::{command, loud, output, quiet, step},
    work::{Work, once},
};

/// The image's name: its tag is the version of Kubernetes, as with kind's own.
pub fn name() -> String {
    format!("holdfast/kind-node:{VERSION}")
}

/// Debian's release. Trixie's systemd refuses cgroup v1, which this machine may have.
const SUITE: &str = "bookworm";
/// Raised when what makes the base tree changes.
const GENERATION: &str = "1";

/// As kind's base image has them, without what is for storage that no test here uses.
const PACKAGES: &[&str] = &[
    "bash",
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "jq",
    "kmod",
    "libseccomp2",
    "mount",
    "netbase",
    "nftables",
    "procps",
    "socat",
    "systemd",
    "systemd-sysv",
    "util-linux",
];

/// Folders whose units kind's base image removes or leaves out of the boot.
const NOT_WANTED: &[&str] = &[
    "lib/systemd/system/multi-user.target.wants",
    "lib/systemd/system/local-fs.target.wants",
    "lib/systemd/system/basic.target.wants",
];
const ENABLED: &[&str] = &["containerd.service", "kubelet.service", "undo-mount-hacks.service"];

/// Builds the archive, or finds the one that was built before from the same programs and files.
pub fn archive(work: &Work) -> Result<PathBuf> {
    let dir = work.dir("kind")?;
    let base = base(work, &dir)?;
    let archive = archive_path(work);
    let inputs = inputs(work)?;
    once(&dir.join("node-image.stamp"), &inputs, || {
        let overlay = empty_overlay(&dir.join("overlay"))?;
        add_kubernetes(work, &overlay)?;
        add_holdfast(work, &overlay)?;
        add_files(&work.repo.join("manifests/kind/node"), &overlay)?;
        import_images(work, &base, &dir, &overlay)?;
        step(&format!("packing the node image {}", name()), || pack(&dir, &base, &overlay, &archive, &name()))
    })?;
    Ok(archive)
}

/// The archive, whether it is there or not.
pub fn archive_path(work: &Work) -> PathBuf {
    work.cache.join("kind/node-image.tar")
}

/// The image's inputs as one text: sums of the programs and of our files.
fn inputs(work: &Work) -> Result<String> {
    let mut text = format!("{GENERATION} {VERSION} {}\n", kubernetes::KIND);
    let built = Profile::Release.directory(work);
    for path in PROGRAMS.map(|name| built.join(name)) {
        let sum = output(command("sha256sum", ["--"]).arg(&path))?;
        text += &sum;
    }
    Ok(text + &files(work)?)
}

/// Sums of our own files.
pub fn files(work: &Work) -> Result<String> {
    let find = ["-c", "find . -type f | sort | xargs sha256sum", "sh"];
    output(command("sh", find).current_dir(work.repo.join("manifests/kind/node")))
}

/// An empty tree that is laid over the base's.
pub fn empty_overlay(overlay: &Path) -> Result<PathBuf> {
    if overlay.exists() {
        fs::remove_dir_all(overlay).context("remove an old tree")?;
    }
    fs::create_dir_all(overlay.join("kind/manifests")).context("make a tree")?;
    Ok(overlay.to_owned())
}

/// Debian with the files of kind's base image.
pub fn base(work: &Work, dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("base");
    once(&dir.join("base.stamp"), &format!("{GENERATION} {}", kubernetes::KIND), || {
        debian::bootstrap(work, SUITE, PACKAGES, &tree)?;
        add_files(&kubernetes::kind_module(work)?.join("images/base/files"), &tree)?;
        settle(&tree)
    })?;
    Ok(tree)
}

/// The other steps of the Dockerfile of kind's base image.
fn settle(tree: &Path) -> Result<()> {
    for dir in NOT_WANTED {
        empty(&tree.join(dir))?;
    }
    let units = tree.join("etc/systemd/system");
    for entry in fs::read_dir(&units).context("list the units")?.flatten() {
        if entry.file_name().to_string_lossy().ends_with(".wants") {
            empty(&entry.path())?;
        }
    }
    let _ =
        fs::remove_file(tree.join("lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service"));
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).context("make multi-user.target.wants")?;
    for unit in ENABLED {
        link(&format!("/etc/systemd/system/{unit}"), &wants.join(unit))?;
    }
    link("/dev/null", &units.join("systemd-binfmt.service"))?;
    // `journalctl -u holdfast` is what an operator of Holdfast tries first.
    link("/etc/systemd/system/containerd.service", &units.join("holdfast.service"))?;
    let mut journal = fs::File::options().append(true).open(tree.join("etc/systemd/journald.conf"));
    journal.as_mut().map_or(Ok(()), |file| writeln!(file, "ReadKMsg=no")).context("configure the journal")?;
    for dir in ["etc/kubernetes/manifests", "kind/manifests", "opt/cni/bin"] {
        fs::create_dir_all(tree.join(dir)).with_context(|| format!("make {dir}"))?;
    }
    for dir in
        ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"]
    {
        empty(&tree.join(dir))?;
    }
    // Each node makes its own.
    write(&tree.join("etc/machine-id"), "")
}

fn empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Kubernetes, crictl, the CNI plugins and the storage class.
pub fn add_kubernetes(work: &Work, overlay: &Path) -> Result<()> {
    let programs = kubernetes::programs(work);
    for name in kubernetes::NODE {
        copy(&programs.join(name), &overlay.join("usr/bin").join(name), 0o755)?;
    }
    for name in ["host-local", "loopback", "portmap", "ptp"] {
        copy(&kubernetes::cni_plugins(work).join(name), &overlay.join("opt/cni/bin").join(name), 0o755)?;
    }
    copy(&work.tools().join("crictl"), &overlay.join("usr/local/bin/crictl"), 0o755)?;
    write(&overlay.join("kind/version"), VERSION)?;
    write(&overlay.join("kind/manifests/default-storage.yaml"), &Storage::of_kind(work)?.manifest)
}

/// The programs, where the agent looks for its helpers.
fn add_holdfast(work: &Work, overlay: &Path) -> Result<()> {
    let built = Profile::Release.directory(work);
    let [agent, helpers @ ..] = PROGRAMS;
    copy(&built.join(agent), &overlay.join("usr/local/bin").join(agent), 0o755)?;
    for name in helpers {
        copy(&built.join(name), &overlay.join("usr/libexec/holdfast").join(name), 0o755)?;
    }
    Ok(())
}

/// Copies files, with modes as kind's Dockerfile gives them: programs and scripts may be run, nothing else.
fn add_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            add_files(&source, &target)?;
        } else {
            let is_program = from.ends_with("bin");
            copy(&source, &target, if is_program { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

/// The images of the control plane are in the node's store from the start: nothing is imported at its boot.
fn import_images(work: &Work, base: &Path, dir: &Path, overlay: &Path) -> Result<()> {
    let layout = dir.join("images");
    images::layout(work, base, &layout)?;
    let config = dir.join("import.toml");
    let state = dir.join("import-state");
    let text = format!(
        "root = \"{}\"\nstate = \"{}\"\nlisten = \"unix://{}/none.sock\"\n",
        overlay.join("var/lib/holdfast").display(),
        state.display(),
        state.display()
    );
    write(&config, &text)?;
    step("importing them into the node's store", || {
        let log = work.dir("logs")?.join("kind-import.log");
        let mut import =
            command(Profile::Release.directory(work).join("holdfast"), ["image", "import", "--config"]);
        quiet(import.arg(&config).arg(&layout), &log)
    })?;
    fs::remove_dir_all(&layout).context("remove the layout")?;
    let _ = fs::remove_dir_all(&state);
    Ok(())
}

/// An image of a layer for each tree, in the form of `docker save`.
pub fn pack(dir: &Path, base: &Path, overlay: &Path, archive: &Path, name: &str) -> Result<()> {
    let image = dir.join("image");
    if image.exists() {
        fs::remove_dir_all(&image).context("remove an old image")?;
    }
    fs::create_dir_all(&image).context("make a folder for the image")?;
    let base = pack_layer(base, &image.join("base.tar"))?;
    let overlay = pack_layer(overlay, &image.join("overlay.tar"))?;
    let config = json!({
        "architecture": Platform::native().0,
        "os": "linux",
        "config": {
            // systemd looks for it, and ends by that signal (systemd.io/CONTAINER_INTERFACE).
            "Env": ["container=docker", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
            "StopSignal": "SIGRTMIN+3",
        },
        "rootfs": {"type": "layers", "diff_ids": [base, overlay]},
    });
    write(&image.join("config.json"), &config.to_string())?;
    let layers = ["base.tar", "overlay.tar"];
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    write(&image.join("manifest.json"), &manifest.to_string())?;
    let mut tar = command("tar", ["--create", "--file"]);
    tar.arg(archive).arg("-C").arg(&image).args(["manifest.json", "config.json"]).args(layers);
    loud(&mut tar)?;
    fs::remove_dir_all(&image).context("remove the image's parts")
}

/// Packs a tree, and returns the layer's diff id.
fn pack_layer(tree: &Path, layer: &Path) -> Result<String> {
    let mut tar = command("tar", ["--create", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file"]);
    loud(tar.arg(layer).arg("-C").arg(tree).arg("."))?;
    let sum = output(command("sha256sum", ["--"]).arg(layer))?;
    let sum = sum.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(format!("sha256:{sum}"))
}

/// Copies a file, with the directories above it.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    // A link, of enabling a unit perhaps, would be written through.
    let _ = fs::remove_file(to);
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", to.display()))
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
