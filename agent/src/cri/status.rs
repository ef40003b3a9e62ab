//! From the runtime's errors to gRPC status codes: the one place that knows both.

use tonic::{Code, Status};

use super::convert::Invalid;
use crate::runtime::{Error, Kind};

/// Logs an error once, with its chain and code, and turns it into the answer.
pub fn status(rpc: &'static str, error: &Error) -> Status {
    let status = Status::new(code(error.kind()), error.chain());
    log(rpc, &status);
    status
}

/// A request that does not convert.
pub fn invalid(rpc: &'static str, error: &Invalid) -> Status {
    let status = Status::invalid_argument(error.to_string());
    log(rpc, &status);
    status
}

/// Logs an answer that is an error, once. Whose fault it is decides the level, so that an alarm on errors is one: the node's
/// own are errors, refusals are warnings, and what happens all day on a healthy node (a status of what is gone, a probe that
/// takes too long) is for debugging.
pub fn log(rpc: &'static str, status: &Status) {
    let (code, error) = (status.code(), status.message());
    match code {
        Code::NotFound | Code::DeadlineExceeded | Code::Cancelled => {
            tracing::debug!(rpc, ?code, error, "request failed");
        }
        Code::Internal | Code::DataLoss | Code::Unavailable | Code::Unknown => {
            tracing::error!(rpc, ?code, error, "request failed");
        }
        _ => tracing::warn!(rpc, ?code, error, "request refused"),
    }
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}
