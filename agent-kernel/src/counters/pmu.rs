//! Cycles and instructions of all processors, where there is a unit that counts them: perf_event_open(2).

use crate::error::Error;
use aya::util::online_cpus;
use nix::libc;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};

/// linux/perf_event.h
const TYPE_HARDWARE: u32 = 0;
const HW_CPU_CYCLES: u64 = 0;
const HW_INSTRUCTIONS: u64 = 1;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING`
const FORMAT_TIMES: u64 = 3;
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// What the units counted, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pmu {
    /// Clock cycles of processors that were not halted.
    pub cycles: u64,
    /// Instructions that were finished.
    pub instructions: u64,
}

/// `struct perf_event_attr` as of its first version.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

/// The counters of each processor.
#[derive(Debug)]
pub(super) struct PmuEvents {
    cycles: Vec<File>,
    instructions: Vec<File>,
}

impl PmuEvents {
    /// `Unsupported` or the like where there is no such unit, as in most virtual machines.
    pub(super) fn open() -> Result<Self, Error> {
        let cpus = online_cpus().map_err(|(path, error)| Error::io(path, error))?;
        let all = |config| {
            let opened: io::Result<Vec<_>> = cpus.iter().map(|cpu| open(*cpu, config)).collect();
            opened.map_err(|error| Error::io("PMU", error))
        };
        Ok(Self { cycles: all(HW_CPU_CYCLES)?, instructions: all(HW_INSTRUCTIONS)? })
    }

    pub(super) fn read(&self) -> Result<Pmu, Error> {
        let sum = |events: &[File]| {
            let values = events.iter().map(value);
            values.sum::<io::Result<u64>>().map_err(|error| Error::io("PMU", error))
        };
        Ok(Pmu { cycles: sum(&self.cycles)?, instructions: sum(&self.instructions)? })
    }
}

#[expect(unsafe_code, reason = "perf_event_open(2) takes a pointer")]
fn open(cpu: u32, config: u64) -> io::Result<File> {
    let size = u32::try_from(size_of::<Attr>()).unwrap_or(u32::MAX);
    let mut attr =
        Attr { kind: TYPE_HARDWARE, size, config, read_format: FORMAT_TIMES, ..Attr::default() };
    // SAFETY: the kernel reads as many bytes as the structure says that it has.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw mut attr, -1, cpu, -1, FLAG_FD_CLOEXEC)
    };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Where others want the unit too it is shared by turns: the count is then that of the whole time.
fn value(mut event: &File) -> io::Result<u64> {
    let mut bytes = [0; 24];
    event.read_exact(&mut bytes)?;
    let word = |at: usize| {
        let word = bytes[8 * at..].first_chunk::<8>().expect("three words");
        u64::from_ne_bytes(*word)
    };
    let (count, enabled, running) = (word(0), word(1), word(2));
    if running == 0 || enabled == running {
        return Ok(count);
    }
    let scaled = u128::from(count) * u128::from(enabled) / u128::from(running);
    Ok(u64::try_from(scaled).unwrap_or(u64::MAX))
}
