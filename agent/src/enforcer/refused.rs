//! Why the host does not do what it was told.

use agent_kernel::ErrorKind;

/// Why the host does not do what it was told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) kind: RefusedKind,
    pub(crate) message: String,
}

/// For the status that a caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedKind {
    Invalid,
    NotFound,
    /// Not in this state of the host.
    Precondition,
    Full,
    Internal,
}

impl Refused {
    pub(crate) fn new(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<agent_kernel::Error> for Refused {
    fn from(error: agent_kernel::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Full => RefusedKind::Full,
            ErrorKind::Invalid => RefusedKind::Invalid,
            ErrorKind::NotFound => RefusedKind::NotFound,
            ErrorKind::Busy
            | ErrorKind::NoPermission
            | ErrorKind::Unsupported
            | ErrorKind::Exists => RefusedKind::Precondition,
            ErrorKind::Io => RefusedKind::Internal,
        };
        Self::new(kind, with_remedy(&error))
    }
}

/// An error with what to do about it.
pub(super) fn with_remedy(error: &agent_kernel::Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}
