//! `/proc/PID/limits`, as in proc_pid_limits(5).

use super::{Handle, LONGEST_FILE, fields, lines, number};
use crate::error::Error;
use std::path::Path;

/// Width of the column of names.
const NAME: usize = 26;

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The kernel's name in lower case, with underscores and without `Max`: `open_files`.
    pub name: String,
    /// What is enforced; `None` for unlimited.
    pub soft: Option<u64>,
    /// How far the process itself may raise it; `None` for unlimited.
    pub hard: Option<u64>,
    /// `seconds`, `bytes`, `files` …; `None` for a bare number.
    pub unit: Option<String>,
}

/// Reads them all.
pub fn limits(root: &Path, pid: u32) -> Result<Vec<Limit>, Error> {
    let handle = Handle::open(root, pid)?;
    let (text, _) = handle.read("limits", LONGEST_FILE)?;
    lines(&text).skip(1).map(|line| parse(line).ok_or_else(|| handle.odd("limits"))).collect()
}

fn parse(line: &[u8]) -> Option<Limit> {
    // Names hold blanks.
    let (name, rest) = line.split_at_checked(NAME)?;
    let name = std::str::from_utf8(name).ok()?.trim().to_lowercase().replace(' ', "_");
    let mut rest = fields(rest);
    let mut value = || match rest.next()? {
        b"unlimited" => Some(None),
        digits => number(digits).map(Some),
    };
    let (soft, hard) = (value()?, value()?);
    let unit = rest.next().map(|unit| String::from_utf8_lossy(unit).into_owned());
    Some(Limit { name: name.trim_start_matches("max_").to_owned(), soft, hard, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_missing_units_are_read() {
        let root = super::super::tests::fixture(&[(
            "limits",
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
              Max cpu time              unlimited            unlimited            seconds   \n\
              Max open files            1024                 4096                 files     \n\
              Max nice priority         0                    5                    \n",
        )]);
        let limits = limits(root.path(), 7).expect("limits");
        let limit = |name: &str, soft, hard, unit: Option<&str>| Limit {
            name: name.to_owned(),
            soft,
            hard,
            unit: unit.map(str::to_owned),
        };
        let expected = [
            limit("cpu_time", None, None, Some("seconds")),
            limit("open_files", Some(1024), Some(4096), Some("files")),
            limit("nice_priority", Some(0), Some(5), None),
        ];
        assert_eq!(limits, expected);
    }

    #[test]
    fn what_is_no_limit_is_an_error() {
        let root = super::super::tests::fixture(&[("limits", b"Limit\nodd\n")]);
        let error = limits(root.path(), 7).expect_err("no limit");
        assert_eq!(error.to_string(), "process \"7\": its limits file has another form");
    }
}
