//! Images of the control plane, of kube-proxy and of the node image's network add-on, under the names that kubeadm and the
//! manifests ask for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::storage::Storage;
use crate::{
    critest::nginx,
    images,
    kubernetes::{self, COREDNS, VERSION},
    oci::{Compression, Image, Layout, Meta, Platform, Tar, digest},
    run::step,
    work::Work,
};

/// The tag of etcd's image that kubeadm of [`VERSION`] asks for.
const ETCD_TAG: &str = "3.7.0-0";
/// The network add-on's.
pub const NETWORK: &str = "holdfast.local/kind-network:1";
/// Programs of kube-proxy's image, and what their names are in the package.
const IPTABLES: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Writes an OCI layout of all images into `dir`. `base` is the node's tree, which has iptables and its libraries.
pub fn layout(work: &Work, base: &Path, dir: &Path) -> Result<()> {
    step("building the images of the control plane", || {
        let mut layout = Layout::create(dir)?;
        for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let image = image(
                json!({"Entrypoint": [format!("/usr/local/bin/{name}")], "Env": [PATH]}),
                [program(work, name)?],
            );
            layout.add(&[&format!("registry.k8s.io/{name}:{VERSION}")], &image)?;
        }
        let proxy = image(json!({"Env": [PATH]}), [iptables(base)?, program(work, "kube-proxy")?]);
        layout.add(&[&format!("registry.k8s.io/kube-proxy:{VERSION}")], &proxy)?;
        let etcd = image(json!({"Env": [PATH]}), [program(work, "etcd")?]);
        layout.add(&[&format!("registry.k8s.io/etcd:{ETCD_TAG}")], &etcd)?;
        let mut tar = Tar::default();
        tar.file("coredns", Meta::root(0o755), &read(&kubernetes::programs(work).join("coredns"))?);
        let coredns = image(json!({"Entrypoint": ["/coredns"], "WorkingDir": "/"}), [tar]);
        layout.add(&[&format!("registry.k8s.io/coredns/coredns:{COREDNS}")], &coredns)?;
        let storage = Storage::of_kind(work)?;
        let provisioner = image(json!({"Env": [PATH]}), [program(work, "local-path-provisioner")?]);
        layout.add(&[&storage.provisioner], &provisioner)?;
        let busybox = images::busybox_layer(&images::busybox(work)?)?;
        layout.add(&[NETWORK, &storage.helper], &image(json!({"Cmd": ["sh"], "Env": [PATH]}), [busybox]))?;
        layout.finish()
    })
}

/// Archives of images for the tests.
#[derive(Debug)]
pub struct Workloads {
    /// `holdfast.local/busybox:1`.
    pub busybox: PathBuf,
    /// `holdfast.local/nginx:1`.
    pub nginx: PathBuf,
    /// `holdfast.local/partial:1`: an index of two platforms, of which one has its blobs here.
    pub partial: PathBuf,
}

impl Workloads {
    /// Paths of the archives, whether they are there or not.
    pub fn at(work: &Work) -> Self {
        let dir = work.cache.join("kind/workloads");
        Self {
            busybox: images::bench_archive(work),
            nginx: dir.join("nginx.tar"),
            partial: dir.join("partial.tar"),
        }
    }
}

/// Builds them.
pub fn workloads(work: &Work) -> Result<Workloads> {
    let dir = work.dir("kind/workloads")?;
    let archives = Workloads::at(work);
    let busybox = images::busybox_layer(&images::busybox(work)?)?;
    let shell = json!({"Cmd": ["sh"], "Env": [PATH]});
    let native = image(shell.clone(), [busybox.clone()]);
    let mut other = Tar::default();
    other.file("other", Meta::root(0o644), b"of another architecture\n");
    let foreign = Image { platform: Platform::foreign(), ..image(shell.clone(), [other]) };
    images::bench(work)?;
    docker_archive(&archives.nginx, "holdfast.local/nginx:1", &[busybox, nginx::layer(work)?])?;
    partial_archive(&archives.partial, &dir.join("partial"), &[foreign, native])?;
    Ok(archives)
}

/// An index of which only this machine's image is whole.
fn partial_archive(archive: &Path, dir: &Path, images: &[Image]) -> Result<()> {
    let mut layout = Layout::create(dir)?;
    layout.add_index(&["holdfast.local/partial:1"], images)?;
    layout.finish()?;
    leave_out_other_platforms(dir)?;
    fs::write(archive, Layout::archive(dir)?).with_context(|| format!("write {}", archive.display()))
}

/// Removes the blobs of manifests that are for other machines, as `docker save` has none of them.
fn leave_out_other_platforms(dir: &Path) -> Result<()> {
    let blob = |digest: &Value| dir.join("blobs").join(digest.as_str().unwrap_or_default().replace(':', "/"));
    let json = |path: &Path| -> Result<Value> {
        serde_json::from_slice(&read(path)?).with_context(|| format!("read {}", path.display()))
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for entry in list(&json(&dir.join("index.json"))?["manifests"]) {
        for manifest in list(&json(&blob(&entry["digest"]))?["manifests"]) {
            if manifest["platform"]["architecture"] != Platform::foreign().0 {
                continue;
            }
            let path = blob(&manifest["digest"]);
            let content = json(&path)?;
            for part in list(&content["layers"]).iter().chain([&content["config"]]) {
                fs::remove_file(blob(&part["digest"])).context("leave a blob out")?;
            }
            fs::remove_file(path).context("leave a manifest out")?;
        }
    }
    Ok(())
}

/// In the form of `docker save` without the containerd image store, which Docker of Debian 12 loads.
fn docker_archive(path: &Path, tag: &str, layers: &[Tar]) -> Result<()> {
    let (mut archive, mut names, mut diff_ids) = (Tar::default(), Vec::new(), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        let bytes = layer.finish();
        diff_ids.push(digest(&bytes));
        names.push(format!("{number}.tar"));
        archive.file(&format!("{number}.tar"), Meta::root(0o644), &bytes);
    }
    let config = json!({
        "architecture": Platform::native().0, "os": "linux", "config": {"Cmd": ["sh"], "Env": [PATH]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    archive.file("config.json", Meta::root(0o644), config.to_string().as_bytes());
    let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    archive.file("manifest.json", Meta::root(0o644), manifest.to_string().as_bytes());
    fs::write(path, archive.finish()).with_context(|| format!("write {}", path.display()))
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Layers as they are: they are unpacked on this machine at once.
fn image(config: Value, layers: impl IntoIterator<Item = Tar>) -> Image {
    let mut image = Image::new(config, layers);
    image.layers.iter_mut().for_each(|layer| layer.1 = Compression::None);
    image
}

fn program(work: &Work, name: &str) -> Result<Tar> {
    let mut tar = Tar::default();
    let bytes = read(&kubernetes::programs(work).join(name))?;
    tar.file(&format!("usr/local/bin/{name}"), Meta::root(0o755), &bytes);
    Ok(tar)
}

/// iptables with nf_tables behind it, its extensions, its libraries and their loader.
fn iptables(base: &Path) -> Result<Tar> {
    let mut tar = Tar::default();
    for dir in ["etc", "run", "tmp", "var", "lib64", "usr/sbin", LIBRARIES] {
        tar.dir(dir, Meta::root(0o755));
    }
    tar.symlink("lib", "usr/lib");
    tar.symlink("sbin", "usr/sbin");
    for file in ["etc/protocols", "etc/services"] {
        if let Ok(bytes) = fs::read(base.join(file)) {
            tar.file(file, Meta::root(0o644), &bytes);
        }
    }
    tar.file(
        "usr/sbin/xtables-nft-multi",
        Meta::root(0o755),
        &read(&base.join("usr/sbin/xtables-nft-multi"))?,
    );
    for name in IPTABLES {
        tar.symlink(&format!("usr/sbin/{name}"), "xtables-nft-multi");
    }
    let libraries = libraries(base);
    ensure!(libraries.iter().any(|(name, _)| name == "libc.so.6"), "no libc.so.6 in {}", base.display());
    for (name, path) in libraries {
        tar.file(&format!("{LIBRARIES}/{name}"), Meta::root(0o755), &read(&path)?);
    }
    let extensions = base.join(LIBRARIES).join("xtables");
    tar.dir(&format!("{LIBRARIES}/xtables"), Meta::root(0o755));
    for entry in
        fs::read_dir(&extensions).with_context(|| format!("list {}", extensions.display()))?.flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() {
            tar.file(&format!("{LIBRARIES}/xtables/{name}"), Meta::root(0o644), &read(&entry.path())?);
        }
    }
    tar.file(
        "lib64/ld-linux-x86-64.so.2",
        Meta::root(0o755),
        &read(&base.join("lib64/ld-linux-x86-64.so.2"))?,
    );
    Ok(tar)
}

/// Libraries that iptables is linked to.
fn libraries(base: &Path) -> Vec<(String, PathBuf)> {
    let dir = base.join(LIBRARIES);
    let wanted = [
        "libc.so.6",
        "libm.so.6",
        "libmnl.so.0",
        "libnftnl.so.11",
        "libxtables.so.12",
        "libip4tc.so.2",
        "libip6tc.so.2",
        "libnetfilter_conntrack.so.3",
        "libnfnetlink.so.0",
    ];
    let found = wanted.into_iter().map(|name| (name.to_owned(), dir.join(name)));
    found.filter(|(_, path)| path.exists()).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
