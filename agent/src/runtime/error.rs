//! What can go wrong in the runtime, and whose fault it is.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use holdfast_pod::protocol::{FaultKind, Phase};

use super::{command::CommandError, record::RecordError, shim::ShimError};

/// Classes of errors; `cri::status` gives each its gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request asks for something that cannot be.
    InvalidArgument,
    /// A named object is not there.
    NotFound,
    /// The name is taken by something else.
    AlreadyExists,
    /// The object is not in the state for it.
    FailedPrecondition,
    /// A limit of time passed.
    DeadlineExceeded,
    /// A limit of space or number was met.
    ResourceExhausted,
    /// A registry or another server does not answer.
    Unavailable,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// Not allowed.
    PermissionDenied,
    /// What arrived is not what was promised.
    DataLoss,
    /// Truly not there.
    Unimplemented,
    /// Our own fault, or the kernel's.
    Internal,
}

/// An error of a runtime operation. Display names the operation and the object; the cause is `source`.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{what} {id:?} not found")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {id:?} is ambiguous: {count} ids begin with it; give more digits")]
    Ambiguous { what: &'static str, id: String, count: usize },
    #[error("image {image:?} not found: pull it first")]
    NoSuchImage { image: String },
    /// The first word is cri-api's (pkg/errors): what it stands for is known to those who look for it.
    #[error("ImageVolumeMountFailed: config.mounts[{mount}].image")]
    ImageVolume { mount: usize, source: Box<Error> },
    #[error("pod sandbox {id} is not ready: its state is NOTREADY")]
    PodNotReady { id: String },
    #[error("container {id} is {state}, and {operation} needs one that is {wanted}")]
    WrongState { id: String, state: &'static str, operation: &'static str, wanted: &'static str },
    #[error(
        "{what} name {name:?} is taken by {by} with another configuration: remove that one or raise the attempt"
    )]
    NameTaken { what: &'static str, name: String, by: String },
    #[error("{field}: {problem}")]
    BadRequest { field: &'static str, problem: String },
    #[error(
        "no runtime for {handler:?} is configured: the configured handlers are {configured}; no handler is the built-in one"
    )]
    NoSuchHandler { handler: String, configured: String },
    #[error(
        "OCI runtime {program:?} is not there, or no program: install it, or change the handler's `runtime` in the configuration"
    )]
    NoSuchRuntime { program: PathBuf },
    #[error("find the hooks of a container")]
    Hooks { source: holdfast_spec::hooks::HookError },
    #[error(
        "container {neighbour} has the capability SYS_PTRACE and shares the pid namespace: it would see the host's files while {program:?} runs hooks there; use the built-in runtime handler, take that capability away, or give the pod a user namespace"
    )]
    HooksInSight { neighbour: String, program: PathBuf },
    #[error("{operation} an OCI runtime")]
    OciRuntime { operation: &'static str, source: CommandError },
    #[error("{operation} {object}: no answer within {} s in stage {stage}", limit.as_secs())]
    Timeout { operation: &'static str, object: String, stage: &'static str, limit: Duration },
    #[error("command {command:?} timed out after {timeout_s} s in container {id} and was killed")]
    ExecTimeout { id: String, command: String, timeout_s: i64 },
    #[error("{operation} {path:?}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{operation}")]
    Spec { operation: &'static str, source: holdfast_spec::SpecError },
    #[error("{operation}")]
    Cdi { operation: &'static str, source: crate::cdi::CdiError },
    #[error("{operation}")]
    Seccomp { operation: &'static str, source: holdfast_spec::seccomp::SeccompError },
    #[error("{operation}")]
    Image { operation: String, source: holdfast_image::Error },
    #[error("{operation} of pod sandbox {pod}")]
    Network { operation: &'static str, pod: String, source: holdfast_network::Error },
    #[error("{operation} cgroup")]
    Cgroup { operation: &'static str, source: holdfast_cgroup::Error },
    #[error("{operation} holder of pod sandbox {pod}")]
    Holder { operation: &'static str, pod: String, source: holdfast_pod::holder::HolderError },
    #[error("{operation} container {id}")]
    Shim { operation: &'static str, id: String, source: ShimError },
    #[error("{operation} needs the shim of container {id}, process {pid}, which lives but does not answer")]
    ShimSilent { id: String, operation: &'static str, pid: i32 },
    #[error("connect to port {port} in pod sandbox {pod}: does a program listen there on localhost?")]
    Dial { pod: String, port: u16, source: io::Error },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("clean-up of {object} met {} errors", errors.len())]
    Teardown { object: String, errors: Vec<Error> },
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self.class() {
            // Wherever it was met: a full disk or a full table is not our fault, nor what a configuration lacks.
            Kind::Internal | Kind::FailedPrecondition if ran_out(self) => Kind::ResourceExhausted,
            kind => kind,
        }
    }

    fn class(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::NoSuchImage { .. } => Kind::NotFound,
            Self::Ambiguous { .. } | Self::BadRequest { .. } | Self::NoSuchHandler { .. } => {
                Kind::InvalidArgument
            }
            Self::ImageVolume { source, .. } => source.kind(),
            Self::PodNotReady { .. }
            | Self::WrongState { .. }
            | Self::NoSuchRuntime { .. }
            | Self::HooksInSight { .. }
            | Self::Hooks { .. } => Kind::FailedPrecondition,
            Self::OciRuntime { source, .. } => match source {
                CommandError::Timeout { .. } => Kind::DeadlineExceeded,
                _ => Kind::Internal,
            },
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::Timeout { .. } | Self::ExecTimeout { .. } => Kind::DeadlineExceeded,
            Self::Spec { source, .. } => super::kinds::spec(source),
            Self::Cdi { source, .. } => super::kinds::cdi(source),
            Self::Seccomp { source, .. } => super::kinds::seccomp(source),
            Self::Image { source, .. } => super::kinds::image(source),
            Self::Network { source, .. } => super::kinds::network(source),
            Self::Cgroup { source, .. } => super::kinds::cgroup(source),
            Self::Holder { source, .. } => fault(source.kind()),
            Self::Shim { source, .. } => match source {
                ShimError::Failed(failure) => fault(failure.kind),
                ShimError::Timeout { .. } => Kind::DeadlineExceeded,
                _ => Kind::Internal,
            },
            Self::Io { source, .. } => io_kind(source),
            Self::ShimSilent { .. } | Self::Dial { .. } => Kind::Unavailable,
            Self::Record(_) => Kind::Internal,
            Self::Teardown { errors, .. } => errors.first().map_or(Kind::Internal, Error::kind),
        }
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        let mut text = holdfast_model::chain(self);
        if let Self::Teardown { errors, .. } = self {
            for error in errors {
                text.push_str("; ");
                text.push_str(&error.chain());
            }
        }
        text
    }
}

fn fault(kind: FaultKind) -> Kind {
    match kind {
        FaultKind::Invalid => Kind::InvalidArgument,
        FaultKind::NotFound => Kind::NotFound,
        FaultKind::Precondition => Kind::FailedPrecondition,
        FaultKind::Timeout => Kind::DeadlineExceeded,
        FaultKind::Internal => Kind::Internal,
    }
}

/// Whether room, memory, descriptors or processes have run out, by the errors behind this one.
fn ran_out(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustix::io::Errno;
    const SHORT: [Errno; 6] =
        [Errno::NOSPC, Errno::DQUOT, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN];
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        // Libraries whose errors can be cloned (zbus) hold the kernel's in an Arc.
        let shared = error.downcast_ref::<Arc<io::Error>>().map(|error| &**error);
        let io = error.downcast_ref::<io::Error>().or(shared);
        let of_shim = match error.downcast_ref() {
            Some(ShimError::Failed(failure)) => Some(failure.errno),
            _ => None,
        };
        let errno = io.and_then(io::Error::raw_os_error).or(of_shim);
        let told = io.is_some_and(|error| io_kind(error) == Kind::ResourceExhausted);
        told || SHORT.iter().any(|short| Some(short.raw_os_error()) == errno)
    })
}

/// Of an error whose errno is lost, too.
pub(super) fn io_kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            Kind::ResourceExhausted
        }
        _ => Kind::Internal,
    }
}

/// A phase as people read it.
pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "being created",
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Exited => "exited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_is_found_behind_any_error() {
        let internal = |errno: i32| Error::Shim {
            operation: "create",
            id: "c1".to_owned(),
            source: ShimError::Connect {
                source: holdfast_sys::error::CallError::new("socket", io::Error::from_raw_os_error(errno)),
            },
        };
        let failed = |errno| Error::Shim {
            operation: "create",
            id: "c1".to_owned(),
            source: ShimError::Failed(holdfast_pod::protocol::Failure {
                kind: FaultKind::Internal,
                stage: "make the exit record".to_owned(),
                errno,
                text: String::new(),
            }),
        };
        let dbus = |errno| Error::Cgroup {
            operation: "make the cgroup of container c1",
            source: holdfast_cgroup::Error::Dbus {
                operation: "StartTransientUnit",
                unit: "cri-holdfast-c1.scope".to_owned(),
                source: Box::new(io::Error::from_raw_os_error(errno).into()),
            },
        };
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EDQUOT, libc::EAGAIN] {
            assert_eq!(internal(errno).kind(), Kind::ResourceExhausted, "{errno}");
            assert_eq!(failed(errno).kind(), Kind::ResourceExhausted, "{errno}");
            assert_eq!(dbus(errno).kind(), Kind::ResourceExhausted, "{errno}");
        }
        for errno in [libc::EIO, libc::EPERM] {
            assert_eq!(internal(errno).kind(), Kind::Internal, "{errno}");
            assert_eq!(failed(errno).kind(), Kind::Internal, "{errno}");
            assert_eq!(dbus(errno).kind(), Kind::Internal, "{errno}");
        }
    }
}
