//! The one place where a failure becomes a gRPC status.

use crate::enforcer::{Refused, RefusedKind};
use kctl_blocklist::InvalidEntry;
use kctl_proto::agent::v1 as pb;
use tonic::{Code, Status};

/// For what the host refuses or fails at.
pub(crate) fn to_status(refused: Refused) -> Status {
    let message = refused.message;
    match refused.kind {
        RefusedKind::Invalid => Status::invalid_argument(message),
        RefusedKind::NotFound => Status::not_found(message),
        RefusedKind::Precondition => Status::failed_precondition(message),
        RefusedKind::Full => Status::resource_exhausted(message),
        RefusedKind::Internal => {
            tracing::error!(message, "internal error");
            Status::internal(message)
        }
    }
}

/// For what the kernel side fails at.
pub(crate) fn kernel(error: agent_kernel::Error) -> Status {
    to_status(error.into())
}

/// For a malformed entry.
pub(crate) fn invalid(error: InvalidEntry) -> Status {
    Status::invalid_argument(error.to_string())
}

/// As data, for answers that speak of many objects.
pub(crate) fn as_data(status: &Status) -> pb::Error {
    let code = match status.code() {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        _ => "INTERNAL",
    };
    pb::Error { code: code.to_owned(), message: status.message().to_owned() }
}
