//! From the runtime's errors to gRPC status codes: the one place that knows both.

use tonic::{Code, Status};

use super::convert::Invalid;
use crate::runtime::{Error, Kind};

/// Logs an error once, with its chain and code, and turns it into the answer.
pub fn status(rpc: &'static str, error: &Error) -> Status {
    let code = code(error.kind());
    let message = error.chain();
    tracing::error!(rpc, ?code, error = %message, "request failed");
    Status::new(code, message)
}

/// A request that does not convert.
pub fn invalid(rpc: &'static str, error: &Invalid) -> Status {
    tracing::error!(rpc, code = ?Code::InvalidArgument, %error, "request refused");
    Status::invalid_argument(error.to_string())
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
