//! Where programs, tools and images lie, and what kind of machine this is.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The cache of `cargo x`: tools and images.
pub fn cache() -> PathBuf {
    env::var_os("HOLDFAST_E2E_CACHE").map_or_else(|| target().join("x"), PathBuf::from)
}

/// The release programs.
pub fn programs() -> PathBuf {
    env::var_os("HOLDFAST_E2E_BIN").map_or_else(|| target().join("release"), PathBuf::from)
}

/// The agent.
pub fn holdfast() -> PathBuf {
    programs().join("holdfast")
}

/// The programs of another version, to be upgraded from and gone back to.
pub fn old_programs() -> Option<PathBuf> {
    env::var_os("HOLDFAST_E2E_OLD").map(PathBuf::from)
}

/// The real client.
pub fn crictl() -> PathBuf {
    cache().join("tools/crictl")
}

/// A client with an old grpc-go; absent where nothing was prepared.
pub fn old_grpc_go() -> PathBuf {
    cache().join("tools/old-grpc-go")
}

/// A folder of Python's own with the packages of gRPC, and `modules` in it; absent in the virtual machine.
pub fn python() -> PathBuf {
    cache().join("python")
}

/// The conformance tests of CRI.
pub fn critest() -> PathBuf {
    cache().join("tools/critest")
}

/// Debian's registry.
pub fn registry() -> PathBuf {
    cache().join("tools/docker-registry/usr/bin/docker-registry")
}

/// Debian's CNI plugins.
pub fn cni_plugins() -> PathBuf {
    cache().join("tools/containernetworking-plugins/usr/lib/cni")
}

/// A real OCI runtime.
pub fn runc() -> PathBuf {
    cache().join("tools/runc/runc")
}

/// Another one, Debian's.
pub fn crun() -> PathBuf {
    PathBuf::from("/usr/bin/crun")
}

/// The OCI layout with all test images.
pub fn images() -> PathBuf {
    cache().join("images")
}

/// The OCI layout with the stand-ins for critest's images.
pub fn critest_images() -> PathBuf {
    cache().join("critest-images")
}

/// A socket of another runtime to test the tests against.
pub fn endpoint() -> Option<String> {
    env::var("HOLDFAST_E2E_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty())
}

/// Directory in which that runtime looks for a `hosts.toml` of a registry.
pub fn mirrors() -> Option<PathBuf> {
    env::var_os("HOLDFAST_E2E_MIRRORS").map(PathBuf::from)
}

/// Whether somebody says that others work on this machine at the same time: what the oracle finds elsewhere then does
/// not count. It sees most of them itself.
pub fn crowded() -> bool {
    env::var_os("HOLDFAST_E2E_CROWDED").is_some()
}

/// How much slower than a real machine this one is; limits of time are multiplied by it.
pub fn slowness() -> u32 {
    env::var("HOLDFAST_E2E_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Whether the driver said where things are: what is missing is then an error and no reason to skip.
pub fn driven() -> bool {
    env::var_os("HOLDFAST_E2E_BIN").is_some()
}

fn target() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}
