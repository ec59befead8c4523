//! Pressure stall information, as in the kernel's accounting/psi.rst.

use crate::error::{Error, named};
use nix::errno::Errno;
use std::path::Path;

/// How long tasks waited for each resource; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Processors.
    pub cpu: Option<Stalls>,
    /// Memory.
    pub memory: Option<Stalls>,
    /// Disks.
    pub io: Option<Stalls>,
}

/// Waiting for one resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stalls {
    /// Some task waited.
    pub some: Stall,
    /// Every task that was not idle waited; processors have it since Linux 5.13.
    pub full: Option<Stall>,
}

/// Shares of the time that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10_percent: f64,
    /// Percent of the last minute.
    pub avg60_percent: f64,
    /// Percent of the last 5 minutes.
    pub avg300_percent: f64,
    /// Since boot, microseconds.
    pub total_us: u64,
}

/// Reads the three files of the `pressure` folder.
pub(super) fn pressure(root: &Path) -> Result<Pressure, Error> {
    Ok(Pressure {
        cpu: stalls(root, "cpu")?,
        memory: memory_pressure(root)?,
        io: stalls(root, "io")?,
    })
}

/// How long tasks waited for memory; `None` where the kernel does not tell.
pub fn memory_pressure(root: &Path) -> Result<Option<Stalls>, Error> {
    stalls(root, "memory")
}

fn stalls(root: &Path, resource: &str) -> Result<Option<Stalls>, Error> {
    let path = root.join("pressure").join(resource);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(parse(&text)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // Built without it, or switched off at boot.
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EOPNOTSUPP) => Ok(None),
            _ => Err(Error::io(named("file", path.display()), error)),
        },
    }
}

fn parse(text: &str) -> Option<Stalls> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |key: &str| {
            let mut words = line.split_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        Some(Stall {
            avg10_percent: value("avg10")?.parse().ok()?,
            avg60_percent: value("avg60")?.parse().ok()?,
            avg300_percent: value("avg300")?.parse().ok()?,
            total_us: value("total")?.parse().ok()?,
        })
    };
    Some(Stalls { some: line("some ")?, full: line("full ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_stall_are_read_and_one_may_lack() {
        let some = "some avg10=1.25 avg60=0.50 avg300=0.10 total=12345\n";
        let stall = |a, b, c, total_us| Stall {
            avg10_percent: a,
            avg60_percent: b,
            avg300_percent: c,
            total_us,
        };
        let first = stall(1.25, 0.5, 0.1, 12_345);
        assert_eq!(parse(some), Some(Stalls { some: first, full: None }));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        let full = Some(stall(0.0, 0.0, 0.0, 7));
        assert_eq!(parse(&both), Some(Stalls { some: first, full }));
        assert_eq!(parse("some avg10=x\n"), None);
    }

    #[test]
    fn a_kernel_without_it_is_no_error() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(pressure(root.path()).expect("nothing"), Pressure::default());
    }
}
