//! The system as a whole: kernel, processors, memory, load.

use super::cpu::{boot_unix, cpus};
use super::file::text;
use super::memory::{Memory, Swap, memory};
use super::pressure::{Pressure, pressure};
use super::taint::{Taint, taints};
use crate::error::{Error, ErrorKind, named};
use std::path::Path;

/// One host at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// As in uname -r.
    pub kernel: String,
    /// As in uname -v: how and when it was built.
    pub kernel_version: String,
    /// Milliseconds since 1970, exact to the second.
    pub boot_unix_ms: i64,
    /// Seconds since boot, with those in suspend.
    pub uptime_seconds: f64,
    /// Processors that are online.
    pub cpus: Cpus,
    /// Physical memory.
    pub memory: Memory,
    /// Swap.
    pub swap: Swap,
    /// Load averages.
    pub load: Load,
    /// Pressure stall information.
    pub pressure: Pressure,
    /// Why the kernel is tainted; empty for one that is not, `None` where it does not tell.
    pub taint: Option<Vec<Taint>>,
}

/// Processors that are online.
#[derive(Debug, Clone, PartialEq)]
pub struct Cpus {
    /// How many.
    pub count: usize,
    /// As the first of them calls itself; arm does not.
    pub model: Option<String>,
    /// The mean of their present clocks, where the kernel tells.
    pub mhz: Option<f64>,
}

/// Tasks that run or wait for a disk, as in proc_loadavg(5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Mean of the last minute.
    pub one: f64,
    /// Mean of the last 5 minutes.
    pub five: f64,
    /// Mean of the last 15 minutes.
    pub fifteen: f64,
    /// Threads that run now.
    pub running: u64,
    /// Threads that exist.
    pub threads: u64,
}

/// Reads it all.
pub fn system(root: &Path) -> Result<System, Error> {
    let stat = text(root, "stat")?;
    let (memory, swap) = memory(root)?;
    Ok(System {
        kernel: text(root, "sys/kernel/osrelease")?.trim().to_owned(),
        kernel_version: text(root, "sys/kernel/version")?.trim().to_owned(),
        boot_unix_ms: boot_unix(&stat)?.saturating_mul(1_000),
        uptime_seconds: uptime_seconds(&text(root, "uptime")?)?,
        cpus: cpus(&stat, &text(root, "cpuinfo")?),
        memory,
        swap,
        load: load(root)?,
        pressure: pressure(root)?,
        taint: taints(root),
    })
}

/// From the text of `uptime`.
pub(super) fn uptime_seconds(uptime: &str) -> Result<f64, Error> {
    let first = uptime.split_whitespace().next();
    first.and_then(|seconds| seconds.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, named("file", "uptime"), "it has another form")
    })
}

/// How many tasks ran or waited lately.
pub fn load(root: &Path) -> Result<Load, Error> {
    parse_load(&text(root, "loadavg")?)
}

fn parse_load(loadavg: &str) -> Result<Load, Error> {
    let parse = || {
        let mut words = loadavg.split_whitespace();
        let mut mean = || words.next()?.parse().ok();
        let (one, five, fifteen) = (mean()?, mean()?, mean()?);
        let (running, threads) = words.next()?.split_once('/')?;
        let (running, threads) = (running.parse().ok()?, threads.parse().ok()?);
        Some(Load { one, five, fifteen, running, threads })
    };
    parse().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, named("file", "loadavg"), "it has another form")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_uptimes_are_read() {
        let expected = Load { one: 7.54, five: 6.37, fifteen: 6.0, running: 7, threads: 148 };
        assert_eq!(parse_load("7.54 6.37 6.00 7/148 9387\n").expect("a load"), expected);
        assert!(parse_load("7.54 6.37\n").is_err());
        assert_eq!(uptime_seconds("6334.63 5339.65\n").expect("an uptime"), 6334.63);
        assert!(uptime_seconds("").is_err());
    }

    #[test]
    fn what_a_system_must_have_is_missed_by_name() {
        let root = tempfile::tempdir().expect("a folder");
        let error = system(root.path()).expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("stat"), "{error}");
    }
}
