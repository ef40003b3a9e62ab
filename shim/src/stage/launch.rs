//! Reading the launch: the only place where a container's OCI spec is parsed, and only by a child that soon is the
//! container.

use std::os::fd::BorrowedFd;

use holdfast_pod::launch::{ExecLaunch, Launch as Generic};
use holdfast_sys::memfd;
use holdfast_sys::process::Filter;
use oci_spec::runtime::{Linux, Mount, Process, Spec};
use serde::de::DeserializeOwned;

use crate::fault::{OrFail, Result, internal, invalid};

/// A launch with its spec.
pub type Launch = Generic<Spec>;
/// An exec's process.
pub type Exec = ExecLaunch<Process>;

/// Longest launch in bytes: the kernel takes 128 KiB an argument and 6 MiB in all.
const LONGEST: usize = 16 << 20;
/// Longest seccomp program in bytes (BPF_MAXINSNS).
const LONGEST_PROGRAM: usize = 4096 * 8;

/// Reads the launch's memfd.
pub fn read(fd: BorrowedFd<'_>) -> Result<Launch> {
    parse(fd)
}

/// Reads an exec's memfd.
pub fn read_exec(fd: BorrowedFd<'_>) -> Result<Exec> {
    parse(fd)
}

fn parse<T: DeserializeOwned>(fd: BorrowedFd<'_>) -> Result<T> {
    const STAGE: &str = "read launch";
    let bytes = memfd::read_sealed(fd, LONGEST).or_fail(STAGE)?;
    serde_json::from_slice(&bytes).map_err(|e| internal(STAGE, e.to_string()))
}

/// Reads the seccomp program's memfd.
pub fn read_seccomp(fd: Option<BorrowedFd<'_>>, flags: u32) -> Result<Option<Filter>> {
    const STAGE: &str = "read seccomp program";
    let Some(fd) = fd else { return Ok(None) };
    let bytes = memfd::read_sealed(fd, LONGEST_PROGRAM).or_fail(STAGE)?;
    let program = Filter::from_bytes(&bytes, flags);
    program.map(Some).ok_or_else(|| internal(STAGE, format!("{} bytes are no BPF program", bytes.len())))
}

/// The spec's process.
pub fn process(launch: &Launch) -> Result<&Process> {
    launch.spec.process().as_ref().ok_or_else(|| invalid("read launch", "the spec has no process"))
}

/// The spec's Linux part.
pub fn linux(launch: &Launch) -> Option<&Linux> {
    launch.spec.linux().as_ref()
}

/// The spec's mounts.
pub fn mounts(launch: &Launch) -> &[Mount] {
    launch.spec.mounts().as_deref().unwrap_or_default()
}

/// The root is read-only.
pub fn root_is_read_only(launch: &Launch) -> bool {
    launch.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false)
}

/// The container has a user namespace of its pod.
pub fn has_user_namespace(launch: &Launch) -> bool {
    !launch.uid_map.is_empty()
}
