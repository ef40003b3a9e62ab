//! Whose fault the errors of the packages below are, in the runtime's own words.

use super::{Kind, error::io_kind};

/// Of the spec builder.
pub fn spec(error: &holdfast_spec::SpecError) -> Kind {
    use holdfast_spec::ErrorKind as Of;
    match error.kind() {
        Of::InvalidArgument => Kind::InvalidArgument,
        Of::NotFound => Kind::NotFound,
        Of::Precondition => Kind::FailedPrecondition,
        Of::Internal => Kind::Internal,
    }
}

/// Of CDI devices.
pub fn cdi(error: &crate::cdi::CdiError) -> Kind {
    use crate::cdi::CdiError as Of;
    match error {
        Of::Name { .. } | Of::Unknown { .. } => Kind::InvalidArgument,
        Of::Conflict { .. } | Of::BadSpec { .. } | Of::TooMuch { .. } => Kind::FailedPrecondition,
        Of::Folder { source, .. } => io_kind(source),
    }
}

/// Of the seccomp compiler.
pub fn seccomp(error: &holdfast_spec::seccomp::SeccompError) -> Kind {
    use holdfast_spec::ErrorKind as Of;
    match error.kind() {
        Of::InvalidArgument => Kind::InvalidArgument,
        Of::NotFound => Kind::NotFound,
        Of::Precondition => Kind::FailedPrecondition,
        Of::Internal => Kind::Internal,
    }
}

/// Of the image store.
pub fn image(error: &holdfast_image::Error) -> Kind {
    use holdfast_image::ErrorKind as Of;
    match error.kind() {
        Of::InvalidReference | Of::Unsupported => Kind::InvalidArgument,
        Of::NotFound => Kind::NotFound,
        Of::Unauthenticated => Kind::Unauthenticated,
        Of::Denied => Kind::PermissionDenied,
        Of::Unavailable => Kind::Unavailable,
        Of::DataLoss | Of::Corrupt => Kind::DataLoss,
        Of::DeadlineExceeded | Of::Cancelled => Kind::DeadlineExceeded,
        Of::TooLarge => Kind::ResourceExhausted,
        Of::Config => Kind::FailedPrecondition,
        Of::Io => Kind::Internal,
    }
}

/// Of the network.
pub fn network(error: &holdfast_network::Error) -> Kind {
    use holdfast_network::Error as Of;
    match error {
        Of::BadPort { .. } => Kind::InvalidArgument,
        Of::PortInUse { .. } | Of::Exists { .. } => Kind::AlreadyExists,
        Of::Exhausted { .. } => Kind::ResourceExhausted,
        Of::NotFound { .. } => Kind::NotFound,
        Of::Config(_)
        | Of::Collision { .. }
        | Of::Foreign { .. }
        | Of::CniConfig { .. }
        | Of::NoCni { .. }
        | Of::Firewall { .. } => Kind::FailedPrecondition,
        Of::Timeout { .. } => Kind::DeadlineExceeded,
        Of::Missing { .. } => Kind::Unavailable,
        Of::Io { source, .. } => io_kind(source),
        Of::Several(errors) => errors.first().map_or(Kind::Internal, network),
        Of::Netlink { .. } | Of::Plugin { .. } | Of::Check { .. } | Of::Lost(_) => Kind::Internal,
    }
}

/// Of the control groups.
pub fn cgroup(error: &holdfast_cgroup::Error) -> Kind {
    use holdfast_cgroup::Kind as Of;
    match error.kind() {
        Of::Invalid => Kind::InvalidArgument,
        Of::NotFound => Kind::NotFound,
        Of::Precondition => Kind::FailedPrecondition,
        Of::Timeout => Kind::DeadlineExceeded,
        Of::Internal => Kind::Internal,
    }
}
