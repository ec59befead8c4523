//! The one error type of this crate. It must not know what a caller makes of it.

use std::fmt::Display;
use std::io;

/// What kind of failure it is, for a caller that maps it to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such object.
    NotFound,
    /// The object is there already.
    Exists,
    /// The input makes no sense.
    Invalid,
    /// A map or table has no room left.
    Full,
    /// Somebody else holds the object.
    Busy,
    /// A privilege is missing.
    NoPermission,
    /// This kernel cannot do it.
    Unsupported,
    /// The kernel failed otherwise.
    Io,
}

/// A failure of the kernel side: the object, what is wrong with it, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {why}")]
pub struct Error {
    kind: ErrorKind,
    object: String,
    why: String,
    remedy: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What it is about: `link "eth7"`, `map rules4`.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// What to do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    pub(crate) fn new(kind: ErrorKind, object: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, object: object.into(), why: why.into(), remedy: None, source: None }
    }

    /// An error number of the kernel, told in the kernel's words.
    pub(crate) fn io(object: impl Into<String>, error: io::Error) -> Self {
        let kind = kind_of(&error);
        let why = error.raw_os_error().map_or_else(
            || error.to_string(),
            |number| nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        );
        let source = Some(Box::new(error).into());
        let remedy = (kind == ErrorKind::NoPermission)
            .then(|| "run as root, or give CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".to_owned());
        Self { kind, object: object.into(), why, remedy, source }
    }

    /// An error of a library that wraps an error number of the kernel somewhere in its sources.
    pub(crate) fn wrapped(
        object: impl Into<String>,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let object = object.into();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if let Some(number) =
                inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
            {
                let mut known = Self::io(object, io::Error::from_raw_os_error(number));
                known.source = Some(Box::new(error));
                return known;
            }
            cause = inner.source();
        }
        let why = chain(&error);
        Self { kind: ErrorKind::Io, object, why, remedy: None, source: Some(Box::new(error)) }
    }

    /// What is wrong, without the object.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// The same error seen as another kind, and told in other words.
    pub(crate) fn because(self, kind: ErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into(), ..self }
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    use nix::errno::Errno;
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ESRCH => ErrorKind::NotFound,
        Errno::EEXIST => ErrorKind::Exists,
        Errno::EINVAL | Errno::ERANGE | Errno::ENAMETOOLONG => ErrorKind::Invalid,
        Errno::E2BIG | Errno::ENOSPC | Errno::ENOMEM => ErrorKind::Full,
        Errno::EBUSY => ErrorKind::Busy,
        Errno::EPERM | Errno::EACCES | Errno::EROFS => ErrorKind::NoPermission,
        Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPROTONOSUPPORT => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Many libraries repeat their source in their own text.
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// How an object of some kind is named in an error: `link "eth7"`.
pub(crate) fn named(kind: &str, name: impl Display) -> String {
    format!("{kind} \"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer call failed")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_error_names_the_object_first_and_in_the_kernels_words() {
        let error = Error::io(named("link", "eth7"), io::Error::from_raw_os_error(19));
        assert_eq!(error.to_string(), "link \"eth7\": no such device");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_error_number_is_found_below_a_librarys_wrapping() {
        let error = Error::wrapped("map rules4", Outer(io::Error::from_raw_os_error(7)));
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(std::error::Error::source(&error).is_some());
        let error = Error::wrapped("map rules4", Outer(io::Error::other("odd")));
        assert_eq!(error.to_string(), "map rules4: outer call failed: odd");
    }
}
