//! What can go wrong with a request, and the one place that makes a gRPC status of it.

use kctl_proto::agent::v1 as pb;
use kctl_rpc::code_name;
use tonic::{Code, Status};

/// A refused request. Every text says the object first, then what is wrong, then what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The caller may not do it, or not there.
    #[error("{0}")]
    Denied(String),
    /// It makes something that exists.
    #[error("{0}")]
    Exists(String),
    /// It makes sense, but not now or not here.
    #[error("{0}")]
    Precondition(String),
    /// It asks for more than there is room for.
    #[error("{0}")]
    Exhausted(String),
    /// A join token that does not work.
    #[error("{0}")]
    Token(#[from] crate::token::Refused),
    /// What was told before can't be read.
    #[error("history: {0}")]
    History(String),
    /// It comes too late.
    #[error("controller: stopping; connect again")]
    Stopping,
    /// The store did not take it; nothing was changed.
    #[error("store: {0}")]
    Store(String),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::Denied(_) => Code::PermissionDenied,
            Error::Exists(_) => Code::AlreadyExists,
            Error::Precondition(_) => Code::FailedPrecondition,
            Error::Exhausted(_) => Code::ResourceExhausted,
            Error::Token(_) => Code::Unauthenticated,
            Error::Stopping => Code::Unavailable,
            Error::History(_) | Error::Store(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// An error as data, for answers that speak of many hosts.
pub(crate) fn error_data(code: Code, message: impl Into<String>) -> pb::Error {
    pb::Error { code: code_name(code).to_owned(), message: message.into() }
}

/// What a host answered, as data. A connection that died shows as several codes in tonic; for the
/// reader they are all the same: the host can't be reached.
pub(crate) fn host_error(status: &Status) -> pb::Error {
    if connection_lost(status) {
        return error_data(Code::Unavailable, format!("connection lost: {}", status.message()));
    }
    error_data(status.code(), status.message())
}

/// Whether a call failed because its connection did, and not because the host said no.
pub(crate) fn connection_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}
