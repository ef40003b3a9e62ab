//! Records of pods and containers on disk.
//!
//! A record is written before the thing that it describes is made, by create and rename: `kill -9` leaves the old
//! one or the new one. It is durable soon after, in the background; one that must not be lost, before it has its name.

use std::{
    io,
    path::{Path, PathBuf},
};

use holdfast_cgroup::{Location, Made};
use holdfast_model::{ContainerConfig, ContainerId, PodId, PodSandboxConfig, Resources};
use holdfast_pod::{
    oci_runtime::OciRuntime,
    protocol::{Created, ExitRecord, Phase},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version that this program writes. A larger one is left to the program that wrote it.
pub const VERSION: u32 = 1;
/// File name of a record in its object's directory.
pub const FILE: &str = "record.json";

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} record {path:?}")]
pub struct RecordError {
    /// What was done to it.
    pub operation: &'static str,
    /// The file, or a directory of them.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// Where a pod sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodPhase {
    /// RunPodSandbox has not answered yet; a restart undoes it.
    Creating,
    /// SANDBOX_READY.
    Ready,
    /// SANDBOX_NOTREADY.
    NotReady,
    /// RemovePodSandbox has begun; a restart finishes it.
    Removing,
}

/// A process by a name that is never reused: pid and start time within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessName {
    /// pid in the agent's namespace.
    pub pid: i32,
    /// Clock ticks since boot (proc(5) stat, field 22).
    pub start_time: u64,
}

/// A pod sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// The boot in which it was made.
    pub boot_id: String,
    /// Id.
    pub id: PodId,
    /// What RunPodSandbox asked for.
    pub config: PodSandboxConfig,
    /// RuntimeClass handler; empty: our own.
    pub runtime_handler: String,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Where it stands.
    pub phase: PodPhase,
    /// The holder.
    pub holder: Option<ProcessName>,
    /// The pod's cgroup.
    pub cgroup: Location,
    /// The directories and units that are made for it.
    pub cgroup_made: Made,
    /// The SELinux level that it has for itself; empty where it needs none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selinux_level: String,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// The boot in which it was made.
    pub boot_id: String,
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub pod_id: PodId,
    /// What CreateContainer asked for.
    pub config: ContainerConfig,
    /// The image's id.
    pub image_id: String,
    /// The image's tag when the container was made; empty: it had none.
    #[serde(default)]
    pub image_tag: String,
    /// The image's digest in a repository (`repository@sha256:...`) when the container was made; empty: it had none.
    #[serde(default)]
    pub image_digest: String,
    /// The ids of the images that it mounts, in the order of the mounts that name one.
    #[serde(default)]
    pub volume_images: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Where it stands.
    pub phase: Phase,
    /// RemoveContainer has begun; a restart finishes it.
    pub removing: bool,
    /// The shim.
    pub shim: Option<ProcessName>,
    /// Its init.
    pub init: Created,
    /// Its cgroup.
    pub cgroup: Location,
    /// Signal number that StopContainer sends.
    pub stop_signal: i32,
    /// Absolute path of the log file, or empty.
    pub log_path: PathBuf,
    /// Resources in force.
    pub resources: Resources,
    /// Nanoseconds since the epoch; 0: not yet.
    pub started_at_ns: i64,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// The OCI runtime that made it, as it was configured then; `None`: our own stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OciRuntime>,
}

/// What records have in common.
pub trait Record: Serialize + DeserializeOwned {
    /// Its object's id, which is the name of its directory.
    fn id(&self) -> &str;

    /// The path of a cgroup that is the object's alone, so that its id is in there.
    fn own_cgroup(&self) -> Option<&str>;

    /// Whether a power cut must not lose the object: a client that knows of its end, and then finds it no more, does its work
    /// again.
    fn must_stay(&self) -> bool;
}

impl Record for PodRecord {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    /// A pod's group is mostly the kubelet's.
    fn own_cgroup(&self) -> Option<&str> {
        None
    }

    fn must_stay(&self) -> bool {
        self.phase == PodPhase::NotReady
    }
}

impl Record for ContainerRecord {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn own_cgroup(&self) -> Option<&str> {
        Some(self.cgroup.path())
    }

    fn must_stay(&self) -> bool {
        self.phase == Phase::Exited && !self.removing
    }
}

/// Writes `record` into the existing directory `dir`; returns the file. Blocking.
pub fn write<R: Record>(dir: &Path, record: &R) -> Result<PathBuf, RecordError> {
    let path = dir.join(FILE);
    let bytes = serde_json::to_vec(record).map_err(io::Error::from);
    let put = if record.must_stay() { holdfast_record::replace } else { holdfast_record::write };
    match bytes.and_then(|bytes| put(&path, &bytes)) {
        Ok(()) => Ok(path),
        Err(source) => Err(RecordError { operation: "write", path, source }),
    }
}
