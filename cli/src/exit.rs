//! Exit codes, and how an error reaches a person. It knows no command.

use crate::output;
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: all selected hosts did it.
    Done,
    /// 1: error, nothing changed.
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: accepted, but a selected host is pending or failed.
    Partial,
    /// 130: Ctrl-C.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Partial => 3,
            Exit::Interrupted => 130,
        })
    }
}

impl Exit {
    /// For a read of `hosts` hosts of which `failed` did not answer.
    pub(crate) fn of_read(hosts: usize, failed: usize, strict: bool) -> Self {
        match failed {
            0 => Self::Done,
            _ if failed == hosts => Self::Failed,
            _ if strict => Self::Partial,
            _ => Self::Done,
        }
    }

    /// For a change that each of `hosts` hosts makes or not. `failed` of them did not, or did not say
    /// so; `uncertain` of those may have.
    pub(crate) fn of_change(hosts: usize, failed: usize, uncertain: usize) -> Self {
        match failed {
            0 => Self::Done,
            _ if failed == hosts && uncertain == 0 => Self::Failed,
            _ => Self::Partial,
        }
    }
}

/// A mistake on the command line that clap can't see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// A usage error as `anyhow` carries it.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Tells a person, and answers with the exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    output::note(&format!("error: {error:#}"));
    if error.is::<Usage>() { Exit::Usage } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_fails_when_every_host_failed() {
        assert_eq!(Exit::of_read(0, 0, true), Exit::Done);
        assert_eq!(Exit::of_read(3, 0, true), Exit::Done);
        assert_eq!(Exit::of_read(3, 1, false), Exit::Done);
        assert_eq!(Exit::of_read(3, 1, true), Exit::Partial);
        assert_eq!(Exit::of_read(3, 3, false), Exit::Failed);
    }

    #[test]
    fn a_change_fails_when_nothing_can_have_changed() {
        assert_eq!(Exit::of_change(3, 0, 0), Exit::Done);
        assert_eq!(Exit::of_change(3, 1, 0), Exit::Partial);
        assert_eq!(Exit::of_change(3, 3, 0), Exit::Failed);
        assert_eq!(Exit::of_change(1, 1, 1), Exit::Partial);
    }

    #[test]
    fn usage_is_told_apart() {
        assert_eq!(report(&usage("no prefixes")), Exit::Usage);
        assert_eq!(report(&anyhow::anyhow!("no route")), Exit::Failed);
    }
}
