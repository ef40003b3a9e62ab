//! Kubernetes, etcd, CoreDNS, the CNI plugins that kind uses, and kind itself, built from their Go modules.
//!
//! `k8s.io/kubernetes` cannot be built by `go install`: its go.mod names its staging modules at v0.0.0. So it is required by a
//! module of ours, which replaces each of them by its published version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    run::{quiet, step},
    tools,
    work::{Work, once},
};

/// Of Kubernetes.
pub const VERSION: &str = "v1.37.2";
/// Of its staging modules.
const STAGING: &str = "v0.37.2";
/// Of etcd's module.
const ETCD: &str = "v3.7.0";
/// As kubeadm of [`VERSION`] wants it.
pub const COREDNS: &str = "v1.14.6";
/// As kind's base image has them.
const CNI_PLUGINS: &str = "v1.9.1";
/// The provisioner of kind's default storage class.
const LOCAL_PATH: &str = "v0.0.30";
/// Of kind.
pub const KIND: &str = "v0.33.0";

/// Programs of a node.
pub const NODE: [&str; 3] = ["kubeadm", "kubectl", "kubelet"];
/// Programs that run in pods of the control plane, and on every node.
pub const IN_PODS: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"];

/// Directory of the programs.
pub fn programs(work: &Work) -> PathBuf {
    work.tools().join("kubernetes")
}

/// Directory of the CNI plugins.
pub fn cni_plugins(work: &Work) -> PathBuf {
    work.tools().join("cni-plugins")
}

/// kind's program.
pub fn kind(work: &Work) -> PathBuf {
    work.tools().join("kind/kind")
}

/// kind's module, whose base image's files make a machine a node.
pub fn kind_module(work: &Work) -> Result<PathBuf> {
    tools::go_module(work, "sigs.k8s.io/kind", KIND)
}

/// Builds all of it; from nothing that takes a quarter of an hour on two cores.
pub fn prepare(work: &Work) -> Result<()> {
    kubernetes(work)?;
    etcd(work)?;
    coredns(work)?;
    local_path(work)?;
    build_kind(work)?;
    build_cni_plugins(work)
}

fn kubernetes(work: &Work) -> Result<()> {
    let dir = work.dir("tools/kubernetes")?;
    once(&work.tools().join("kubernetes.stamp"), VERSION, || {
        let source = work.dir("sources/kubernetes")?;
        let module = tools::go_module(work, "k8s.io/kubernetes", VERSION)?;
        let text = fs::read_to_string(module.join("go.mod")).context("read Kubernetes' go.mod")?;
        fs::write(source.join("go.mod"), requirement(&text)?).context("write a go.mod")?;
        for name in NODE.into_iter().chain(IN_PODS) {
            step(&format!("building {name} {VERSION}"), || {
                let log = work.dir("logs")?.join(format!("{name}.log"));
                let mut build = tools::go(&source, ["build", "-mod=mod", "-trimpath", "-buildvcs=false"]);
                build.args(["-ldflags", &version_flags(), "-o"]).arg(dir.join(name));
                quiet(build.arg(format!("k8s.io/kubernetes/cmd/{name}")), &log)
            })?;
        }
        Ok(())
    })
}

/// A go.mod that requires Kubernetes, with its staging modules at their published version.
fn requirement(go_mod: &str) -> Result<String> {
    let staging: Vec<&str> = go_mod
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" v0.0.0"))
        .filter(|name| !name.contains(' '))
        .collect();
    ensure!(staging.len() > 20, "Kubernetes' go.mod names {} staging modules", staging.len());
    let word = |key: &str| {
        let line = go_mod.lines().find(|line| line.starts_with(key));
        line.with_context(|| format!("Kubernetes' go.mod has no line {key:?}"))
    };
    let replaced: Vec<String> =
        staging.iter().map(|name| format!("\t{name} => {name} {STAGING}\n")).collect();
    Ok(format!(
        "module holdfast.local/kubernetes\n\n{}\n\n{}\n\nrequire k8s.io/kubernetes {VERSION}\n\nreplace (\n{})\n",
        word("go ")?,
        word("godebug ")?,
        replaced.concat()
    ))
}

fn version_flags() -> String {
    let at = "k8s.io/component-base/version";
    let (major, minor) = VERSION.trim_start_matches('v').split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    format!(
        "-s -w -X {at}.gitVersion={VERSION} -X {at}.gitMajor={major} -X {at}.gitMinor={minor} -X {at}.gitTreeState=clean"
    )
}

fn etcd(work: &Work) -> Result<()> {
    let program = work.dir("tools/kubernetes")?.join("etcd");
    once(&work.tools().join("etcd.stamp"), ETCD, || {
        step(&format!("building etcd {ETCD}"), || {
            let source = work.dir("sources/etcd")?;
            let write =
                |name: &str, text: &str| fs::write(source.join(name), text).context("write etcd's main");
            write("main.go", ETCD_MAIN)?;
            let require = "go.etcd.io/etcd/server/v3";
            write("go.mod", &format!("module holdfast.local/etcd\n\ngo 1.26\n\nrequire {require} {ETCD}\n"))?;
            let log = work.dir("logs")?.join("etcd.log");
            let mut build = tools::go(&source, ["build", "-mod=mod", "-trimpath", "-buildvcs=false"]);
            quiet(build.args(["-ldflags", "-s -w", "-o"]).arg(&program).arg("."), &log)
        })
    })
}

const ETCD_MAIN: &str = "package main

import (
\t\"os\"

\t\"go.etcd.io/etcd/server/v3/etcdmain\"
)

func main() { etcdmain.Main(os.Args) }
";

fn coredns(work: &Work) -> Result<()> {
    let program = work.dir("tools/kubernetes")?.join("coredns");
    once(&work.tools().join("coredns.stamp"), COREDNS, || {
        step(&format!("building CoreDNS {COREDNS}"), || {
            in_module(work, "github.com/coredns/coredns", COREDNS, &program, &["."])
        })
    })
}

fn local_path(work: &Work) -> Result<()> {
    let program = work.dir("tools/kubernetes")?.join("local-path-provisioner");
    once(&work.tools().join("local-path-provisioner.stamp"), LOCAL_PATH, || {
        step(&format!("building local-path-provisioner {LOCAL_PATH}"), || {
            in_module(work, "github.com/rancher/local-path-provisioner", LOCAL_PATH, &program, &["."])
        })
    })
}

fn build_kind(work: &Work) -> Result<()> {
    let program = work.dir("tools/kind")?.join("kind");
    once(&work.tools().join("kind.stamp"), KIND, || {
        step(&format!("building kind {KIND}"), || in_module(work, "sigs.k8s.io/kind", KIND, &program, &["."]))
    })
}

fn build_cni_plugins(work: &Work) -> Result<()> {
    let dir = work.dir("tools/cni-plugins")?;
    once(&work.tools().join("cni-plugins.stamp"), CNI_PLUGINS, || {
        step(&format!("building CNI plugins {CNI_PLUGINS}"), || {
            let packages = [
                "./plugins/ipam/host-local",
                "./plugins/main/loopback",
                "./plugins/main/ptp",
                "./plugins/meta/portmap",
            ];
            in_module(work, "github.com/containernetworking/plugins", CNI_PLUGINS, &dir, &packages)
        })
    })
}

/// Builds packages of a module in its own folder, whose go.sum is whole. `to` is a directory for several. A `vendor` folder does
/// not come with a module in full, so it counts for nothing.
fn in_module(work: &Work, name: &str, version: &str, to: &Path, packages: &[&str]) -> Result<()> {
    let module = tools::go_module(work, name, version)?;
    let log = work.dir("logs")?.join(format!("{}.log", name.rsplit('/').next().unwrap_or(name)));
    let mut build = tools::go(&module, ["build", "-mod=readonly", "-trimpath", "-buildvcs=false"]);
    build.args(["-ldflags", "-s -w", "-o"]);
    quiet(build.arg(to).args(packages), &log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_replaced() {
        let staging: Vec<String> = (0..25).map(|number| format!("\tk8s.io/part{number} v0.0.0\n")).collect();
        let staging = staging.concat();
        let go_mod = format!(
            "module k8s.io/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire (\n{staging}\tk8s.io/utils v0.0.0-2026\n)\n"
        );
        let text = requirement(&go_mod).expect("a go.mod");
        assert!(text.contains("\tk8s.io/part24 => k8s.io/part24 v0.37.2\n"), "{text}");
        assert!(
            text.contains("\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire k8s.io/kubernetes v1.37.2\n"),
            "{text}"
        );
        assert!(!text.contains("utils"));
        assert!(requirement("module x\n").is_err());
        assert!(version_flags().contains("gitMinor=37 "));
    }
}
