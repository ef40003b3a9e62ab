//! The real parts that the tests drive us with, built or unpacked once and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    apt, host,
    run::{command, output, quiet, step},
    work::{Work, once},
};

/// Version of crictl and critest.
pub const CRI_TOOLS: &str = "v1.36.0";
/// Version of runc, which the tests name in a RuntimeClass handler.
const RUNC: &str = "v1.5.2";
/// Changed when the old client's module changes.
const OLD_GRPC_GO: &str = "v1.60.1";
/// Packages that pip installs.
const GRPCIO: &str = "grpcio==1.85.3 grpcio-tools==1.85.1";
const CRI_API: &str = "v0.37.2";

/// Makes all tools that the tests name.
pub fn prepare(work: &Work) -> Result<()> {
    unpacked(work, "docker-registry")?;
    cni(work)?;
    crictl(work)?;
    old_grpc_go(work)?;
    grpcio(work)?;
    runc(work).map(drop)
}

/// A client with the gRPC that kubelets before 1.31 were built with.
fn old_grpc_go(work: &Work) -> Result<()> {
    let source = work.repo.join("e2e/tests/clients/grpc-go");
    once(&work.tools().join("old-grpc-go.stamp"), OLD_GRPC_GO, || {
        step("building a client with an old grpc-go", || {
            let log = work.dir("logs")?.join("old-grpc-go.log");
            let mut build = go(&source, ["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
            quiet(build.arg(work.tools().join("old-grpc-go")).arg("."), &log)
        })
    })
}

/// Python's gRPC, which is built on the C core, in a folder of its own, with modules made from our api.proto. Not among
/// the tools: those go into the virtual machine, which has another Python or none.
fn grpcio(work: &Work) -> Result<()> {
    let dir = work.dir("python")?;
    let log = work.dir("logs")?.join("grpcio.log");
    let python = dir.join("bin/python3");
    once(&work.cache.join("python.stamp"), GRPCIO, || {
        step(&format!("installing Python's {GRPCIO}"), || {
            quiet(command("python3", ["-m", "venv", "--clear"]).arg(&dir), &log)?;
            let pip =
                ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
            quiet(command(&python, pip).args(GRPCIO.split(' ')), &log)
        })
    })?;
    let mut protoc = command(&python, ["-m", "grpc_tools.protoc", "--proto_path"]);
    protoc.arg(work.repo.join("agent/cri/proto"));
    let modules = work.dir("python/modules")?;
    protoc.arg("--python_out").arg(&modules).arg("--grpc_python_out").arg(&modules);
    quiet(protoc.arg("api.proto"), &log)
}

/// Builds runc, and returns its path.
pub fn runc(work: &Work) -> Result<PathBuf> {
    let dir = work.dir("tools/runc")?;
    let program = dir.join("runc");
    once(&work.tools().join("runc.stamp"), RUNC, || {
        step(&format!("building runc {RUNC}"), || {
            let module = go_module(work, "github.com/opencontainers/runc", RUNC)?;
            let log = work.dir("logs")?.join("runc.log");
            let mut build = go(&module, ["build", "-trimpath", "-buildvcs=false", "-tags", "seccomp"]);
            // It joins namespaces in C, and asks libseccomp.
            build.env("CGO_ENABLED", "1").args(["-ldflags", "-s -w", "-o"]).arg(&program);
            quiet(build.arg("."), &log)
        })
    })?;
    Ok(program)
}

/// Unpacks the CNI plugins.
pub fn cni(work: &Work) -> Result<()> {
    unpacked(work, "containernetworking-plugins")
}

/// A Debian package in a folder of its own name: installed, it would start services.
fn unpacked(work: &Work, package: &str) -> Result<()> {
    let dir = work.dir("tools")?.join(package);
    once(&work.tools().join(format!("{package}.stamp")), "1", || {
        step(&format!("unpacking {package}"), || apt::unpack(work, package, &dir))
    })
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

/// Builds crictl.
fn crictl(work: &Work) -> Result<()> {
    once(&work.tools().join("crictl.stamp"), CRI_TOOLS, || {
        step(&format!("building crictl {CRI_TOOLS}"), || {
            let copy = cri_tools(work)?;
            let log = work.dir("logs")?.join("crictl.log");
            let mut build = go(&copy, ["build", "-trimpath", "-buildvcs=false"]);
            build
                .args(["-ldflags", &version_flag(), "-o"])
                .arg(work.tools().join("crictl"))
                .arg("./cmd/crictl");
            quiet(&mut build, &log)
        })
    })
}

/// A copy of cri-tools' folder to build in: `go install` fails on a replaced dependency, and the module cache is not
/// ours to change.
pub fn cri_tools(work: &Work) -> Result<PathBuf> {
    let copy = work.dir("sources")?.join("cri-tools");
    once(&work.cache.join("sources/cri-tools.stamp"), CRI_TOOLS, || {
        let module = go_module(work, "sigs.k8s.io/cri-tools", CRI_TOOLS)?;
        if copy.exists() {
            fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))?;
        }
        let log = work.dir("logs")?.join("cri-tools.log");
        quiet(command("cp", ["-r", "--no-preserve=mode"]).arg(&module).arg(&copy), &log)
    })?;
    Ok(copy)
}

/// What tells crictl and critest which version they are.
pub fn version_flag() -> String {
    format!("-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version={CRI_TOOLS}")
}

/// A Go command in a module's folder, for programs without a C library.
pub fn go<'a>(module: &Path, args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut go = command(go_program(), args);
    go.current_dir(module).env("CGO_ENABLED", "0");
    go
}

/// Downloads a Go module and returns its folder.
pub fn go_module(work: &Work, name: &str, version: &str) -> Result<PathBuf> {
    let mut download = command(go_program(), ["mod", "download", "-json", &format!("{name}@{version}")]);
    // Away from the repository: this is no part of a module.
    let text = output(download.current_dir(&work.cache))?;
    let facts: serde_json::Value = serde_json::from_str(&text).context("read what go mod download says")?;
    let dir = facts["Dir"].as_str().with_context(|| format!("go mod download {name} names no folder"))?;
    Ok(PathBuf::from(dir))
}

fn go_program() -> PathBuf {
    host::find("go").unwrap_or_else(|| PathBuf::from("go"))
}
