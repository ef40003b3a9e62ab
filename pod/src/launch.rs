//! How a container is to be started: the content of the sealed memfds.
//!
//! The agent writes them, stage 1 and the exec stage (short-lived children of the shim) read them; the shim itself
//! never does, which keeps its memory small.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything about a container's start, around its OCI spec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch<S> {
    /// The OCI runtime spec (`oci_spec::runtime::Spec`; a type parameter keeps oci-spec out of this crate). Of its
    /// user only `uid`, `gid`, `additional_gids` count, and those only where `user` below is empty.
    pub spec: S,
    /// What the root is made of; `spec.root.readonly` says whether it is read-only.
    pub rootfs: Rootfs,
    /// Directories of the root that are made if they are not there, and can be written to even if it is read-only: the
    /// image's volumes.
    #[serde(default)]
    pub volumes: Vec<PathBuf>,
    /// Images that are mounted. Each is the source of one mount of the spec, whose own source is for people only.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
    /// Who runs the command.
    pub user: UserRequest,
    /// Clone flags (CLONE_NEWNET ...) of the holder's namespaces that the container joins.
    pub join: u64,
    /// Clone flags of its own namespaces: NEWNS always, NEWPID unless shared, NEWCGROUP on cgroup v2 unless privileged.
    pub own: u64,
    /// Bind the holder's /dev/shm (else the host's, which is then a mount of the spec).
    pub pod_shm: bool,
    /// uid map of the pod's user namespace, for the root's id-mapped layers; empty: no user namespace.
    pub uid_map: Vec<IdMap>,
    /// gid map.
    pub gid_map: Vec<IdMap>,
    /// `KEY=VALUE` of the variables whose value is not UTF-8, which the OCI spec cannot hold: they follow those of
    /// `spec.process.env` and share no key with them.
    #[serde(default)]
    pub raw_env: Vec<Vec<u8>>,
    /// Sources of bind mounts that get the SELinux label of `spec.linux.mountLabel`, with all below them.
    #[serde(default)]
    pub relabel: Vec<PathBuf>,
    /// Sources of bind mounts that are made, as directories, if nothing is there: those of the request.
    #[serde(default)]
    pub make_sources: Vec<PathBuf>,
    /// Flags for seccomp(2) with the program that comes along, if one does.
    #[serde(default)]
    pub seccomp_flags: u32,
}

/// The parts of an overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rootfs {
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Upper directory. Its owner is the container's root as the host numbers it.
    pub upper: PathBuf,
    /// overlayfs's work directory, on the same file system.
    pub work: PathBuf,
}

/// An image that is mounted, always read-only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageVolume {
    /// The place of its mount in `spec.mounts`.
    pub mount: usize,
    /// What the request calls it, for messages.
    pub image: String,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// The directory or file of it that is mounted, relative to its root; empty: all of it.
    pub sub_path: PathBuf,
}

/// Inside id, outside id, count: a line of uid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Who runs the command, before the image's /etc/passwd and /etc/group have been read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserRequest {
    /// `user`, `uid`, `user:group`, `uid:gid` ... as image configurations write it; empty: root.
    pub user: String,
    /// Group that wins over the one of `user`.
    pub group: Option<u32>,
    /// Supplemental groups of the request.
    pub supplemental_groups: Vec<u32>,
    /// Leave out the groups that the image's /etc/group gives the user (KEP-3619, Strict).
    pub strict_groups: bool,
}

/// An exec's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecLaunch<P> {
    /// `oci_spec::runtime::Process`, with its user complete.
    pub process: P,
    /// As [`Launch::raw_env`].
    #[serde(default)]
    pub raw_env: Vec<Vec<u8>>,
    /// As [`Launch::seccomp_flags`].
    #[serde(default)]
    pub seccomp_flags: u32,
}
