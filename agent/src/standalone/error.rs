//! Why a run ended that was not ended by its containers.

use std::{io, path::PathBuf};

use super::{place::PlaceError, volumes::VolumeError};
use crate::{
    cri::client::ClientError,
    manifest::{CreateError, ManifestError},
    runtime::StartError,
};

/// An error of our own: the program ends with [`super::OWN_ERROR`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifest cannot be read.
    #[error("read manifest {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest cannot be run.
    #[error("manifest {path:?}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: ManifestError,
    },
    /// Signals or threads cannot be had.
    #[error("{operation}")]
    Setup {
        /// What was tried.
        operation: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// No agent is there, and its service cannot be started here.
    #[error("start the service in this process, as no agent answers on {listen:?}")]
    Service {
        /// Where an agent would answer.
        listen: PathBuf,
        /// Why not.
        source: Box<StartError>,
    },
    /// No agent is there, but its pods are. Who serves here would be their agent, for as long as this one pod runs.
    #[error(
        "no agent answers on {listen:?}, and {root:?} has {pods} of its pods: start the agent (systemctl start holdfast), or name another \
         root and state by --config"
    )]
    PodsOfAgent {
        /// Socket on which the agent would answer.
        listen: PathBuf,
        /// Its root.
        root: PathBuf,
        /// Their number.
        pods: usize,
    },
    /// An agent is there, and it sees other processes or files.
    #[error(
        "the agent on {listen:?} is in another {namespace} namespace, where it does not see the volumes of this run: run \
         the pod where the agent runs, or with another `listen`"
    )]
    ElsewhereAgent {
        /// Where it answers.
        listen: PathBuf,
        /// `mnt` or `pid`.
        namespace: &'static str,
    },
    /// The agent says no.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// An image has to be there.
    #[error(
        "{path}.image: {image} is not here, and its pull policy is Never: pull or import it with holdfast image, or \
         write IfNotPresent"
    )]
    NoImage {
        /// The container or volume.
        path: String,
        /// Its image.
        image: String,
    },
    /// An image cannot be pulled.
    #[error("{path}.image")]
    Pull {
        /// The container or volume.
        path: String,
        /// Why not.
        source: ClientError,
    },
    /// Our own directory.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A container must not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The agent has not answered for too long.
    #[error("the agent has not said how container {container} is for {limit_s} s")]
    Silent {
        /// Its name.
        container: String,
        /// How long was waited.
        limit_s: u64,
        /// What was answered instead.
        source: ClientError,
    },
    /// Somebody else removed a container.
    #[error("container {container} is gone: somebody else removed it")]
    Gone {
        /// Its name.
        container: String,
    },
    /// `activeDeadlineSeconds`.
    #[error("spec.activeDeadlineSeconds: the pod has run for {seconds} s")]
    Deadline {
        /// The limit.
        seconds: u32,
    },
    /// `sizeLimit`.
    #[error("emptyDir {volume} holds {used} bytes, more than its sizeLimit of {limit}")]
    VolumeFull {
        /// The volume.
        volume: String,
        /// What it holds.
        used: u64,
        /// What it may hold.
        limit: u64,
    },
    /// Something is left behind. The next run tries again.
    #[error("remove pod {pod}: what is left is removed by the next run or by crictl rmp")]
    CleanUp {
        /// Its name.
        pod: String,
        /// Why.
        source: ClientError,
    },
}

impl RunError {
    /// The same error as seen from the clean-up of a pod.
    pub(super) fn cleaning(self, pod: &str) -> Self {
        match self {
            Self::Agent(source) => Self::CleanUp { pod: pod.to_owned(), source },
            other => other,
        }
    }
}
