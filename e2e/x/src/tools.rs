//! The real parts that the tests drive us with, built or unpacked once and kept in the cache.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    apt, host,
    run::{command, output, quiet, step},
    work::{Work, once},
};

const CRI_TOOLS: &str = "v1.36.0";
const CRI_API: &str = "v0.37.2";

/// Makes all tools that the tests name.
pub fn prepare(work: &Work) -> Result<()> {
    fs::create_dir_all(work.tools()).context("make the tools' directory")?;
    for package in ["docker-registry", "containernetworking-plugins"] {
        let dir = work.tools().join(package);
        once(&work.tools().join(format!("{package}.stamp")), "1", || {
            step(&format!("unpacking {package}"), || apt::unpack(work, package, &dir))
        })?;
    }
    crictl(work)
}

/// The registry of Debian's package.
pub fn registry(work: &Work) -> PathBuf {
    work.tools().join("docker-registry/usr/bin/docker-registry")
}

/// The CNI plugins of Debian's package.
pub fn cni_plugins(work: &Work) -> PathBuf {
    work.tools().join("containernetworking-plugins/usr/lib/cni")
}

/// The api.proto that kubelets are built with.
pub fn cri_api_proto(work: &Work) -> Result<PathBuf> {
    Ok(go_module(work, "k8s.io/cri-api", CRI_API)?.join("pkg/apis/runtime/v1/api.proto"))
}

/// Builds crictl in a copy of the module's folder: `go install` fails on a replaced dependency.
fn crictl(work: &Work) -> Result<()> {
    once(&work.tools().join("crictl.stamp"), CRI_TOOLS, || {
        step(&format!("building crictl {CRI_TOOLS}"), || {
            let module = go_module(work, "sigs.k8s.io/cri-tools", CRI_TOOLS)?;
            let copy = work.dir("sources")?.join("cri-tools");
            if copy.exists() {
                fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))?;
            }
            let log = work.dir("logs")?.join("crictl.log");
            quiet(command("cp", ["-r", "--no-preserve=mode"]).arg(&module).arg(&copy), &log)?;
            let version = format!("-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version={CRI_TOOLS}");
            let mut build =
                command(go(), ["build", "-trimpath", "-buildvcs=false", "-ldflags", &version, "-o"]);
            build.arg(work.tools().join("crictl")).arg("./cmd/crictl");
            quiet(build.current_dir(&copy).env("CGO_ENABLED", "0"), &log)
        })
    })
}

/// Downloads a Go module and returns its folder.
fn go_module(work: &Work, name: &str, version: &str) -> Result<PathBuf> {
    let mut download = command(go(), ["mod", "download", "-json", &format!("{name}@{version}")]);
    // Away from the repository: this is no part of a module.
    let text = output(download.current_dir(&work.cache))?;
    let facts: serde_json::Value = serde_json::from_str(&text).context("read what go mod download says")?;
    let dir = facts["Dir"].as_str().with_context(|| format!("go mod download {name} names no folder"))?;
    Ok(PathBuf::from(dir))
}

fn go() -> PathBuf {
    host::find("go").unwrap_or_else(|| PathBuf::from("go"))
}
