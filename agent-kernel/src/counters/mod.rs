//! What the kernel is busy with, as counters that only grow: system calls, page faults, switches, waits,
//! requests to block devices, cycles, and TCP's troubles.
//!
//! eBPF programs count what procfs does not; the rest is read where the kernel counts it anyway. It owns
//! the programs, their maps, and what a reading says. It knows neither rates on the wire nor thresholds.

mod call;
mod links;
mod pmu;
mod procfs;
mod programs;
mod reading;
mod source;

pub use call::{Abi, Call};
pub use pmu::Pmu;
pub use procfs::{Faults, Tcp};
pub use reading::{
    BlockTimes, CallCounts, Counted, Cpu, Histogram, ProcessCounts, Processes, Reading,
};
pub use source::{Missing, Source, Sources};

use crate::error::Error;
use crate::filter::bpf::dump;
use crate::proc::cpu_times;
use crate::trace::Scope;
use agent_records::counters as records;
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use aya::{Ebpf, util::online_cpus};
use links::Links;
use pmu::PmuEvents;
use std::fmt;
use std::path::PathBuf;

/// What to count.
#[derive(Debug, Clone)]
pub struct CountersConfig {
    /// What is counted.
    pub sources: Sources,
    /// Whose system calls, page faults and switches. Waits and requests are those of the whole kernel.
    pub scope: Scope,
    /// Room for processes, from 64 to 1,048,576; about 150 bytes of kernel memory each.
    pub max_processes: u32,
    /// Where procfs is.
    pub proc_root: PathBuf,
    /// Where sysfs is.
    pub sys_root: PathBuf,
    /// The filter's folder on a bpffs, for counters that count on while no agent runs; `None` for counters
    /// beside it.
    pub bpffs: Option<PathBuf>,
}

/// The counters at work. Dropping it stops the programs, unless they are pinned.
pub struct Counters {
    wanted: Sources,
    /// What of it the programs count, or procfs tells alone.
    has: Sources,
    in_scope_only: bool,
    proc_root: PathBuf,
    pmu: Option<PmuEvents>,
    maps: Option<Maps>,
    /// Highest number of evicted processes that was seen.
    evicted: u64,
    /// Evicted before this began.
    evicted_before: u64,
}

struct Maps {
    counters: PerCpuArray<MapData, records::Cpu>,
    processes: Map,
    links: Links,
    /// Holds the programs that were not there yet.
    ebpf: Ebpf,
}

impl fmt::Debug for Counters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counters").field("has", &self.has).finish_non_exhaustive()
    }
}

impl Counters {
    /// Begins to count, and says what can't be counted on this kernel or with our privileges. `NotFound`
    /// without the scope's cgroup.
    pub fn open(config: &CountersConfig) -> Result<(Self, Vec<Missing>), Error> {
        let mut asked = source::Asked::new(config.sources);
        let loaded = programs::load(config, &mut asked)?;
        let pmu = asked.sources().contains(Source::Cpu).then(PmuEvents::open).and_then(Result::ok);
        let mut counters = Self {
            wanted: config.sources,
            has: asked.sources(),
            in_scope_only: config.scope != Scope::Host,
            proc_root: config.proc_root.clone(),
            pmu,
            maps: loaded,
            evicted: 0,
            evicted_before: 0,
        };
        counters.forget_the_gone()?;
        Ok((counters, asked.into_missing()))
    }

    /// What is counted.
    pub fn sources(&self) -> Sources {
        self.has
    }

    /// Everything as it is now.
    pub fn read(&mut self) -> Result<Reading, Error> {
        self.pass_on()?;
        let boot_ns = crate::sys::boottime_ns();
        let (has, wanted) =
            (|source| self.has.contains(source), |source| self.wanted.contains(source));
        let mut counted = Counted::default();
        if wanted(Source::Faults) {
            counted.faults = Some(procfs::faults(&self.proc_root)?);
        }
        if let Some(maps) = &self.maps {
            let cpus = maps.counters.get(&0, 0).map_err(|error| map("counters", error))?;
            if has(Source::ByProcess) {
                let kept = maps.kept()?;
                let evicted = evicted(&cpus, kept.len()).saturating_sub(self.evicted_before);
                self.evicted = self.evicted.max(evicted);
                counted.processes = Some(Processes::new(&kept, self.evicted));
            }
            counted.take(&cpus, self.has);
        }
        if wanted(Source::Switches) && !self.in_scope_only {
            counted.switches = Some(procfs::switches(&self.proc_root)?);
        }
        if has(Source::Cpu) {
            let busy = cpu_times(&self.proc_root)?.busy_ticks();
            let pmu = self.pmu.as_ref().map(PmuEvents::read).transpose()?;
            counted.cpu = Some(Cpu { busy_ns: procfs::nanoseconds(busy), pmu });
        }
        if has(Source::Tcp) {
            counted.tcp = Some(procfs::tcp(&self.proc_root)?);
        }
        Ok(Reading { boot_ns, counted })
    }

    /// Makes each processor pass on what it has counted for a process.
    fn pass_on(&mut self) -> Result<(), Error> {
        let has_table = self.has.contains(Source::ByProcess);
        let Some(maps) = self.maps.as_mut().filter(|_| has_table) else { return Ok(()) };
        let program: &RawTracePoint = programs::pass_on(&maps.ebpf);
        for cpu in online_cpus().map_err(|(path, error)| Error::io(path, error))? {
            let options = RawTracePointRunOptions { cpu: Some(cpu), ..Default::default() };
            // One that just went offline has passed on what it had, or does when it comes back.
            if let Err(error) = program.test_run(options)
                && !programs::is_offline(&error)
            {
                return Err(Error::wrapped("program pass_on", error));
            }
        }
        Ok(())
    }

    /// Takes those out of the table that ended while nobody saw it.
    fn forget_the_gone(&mut self) -> Result<(), Error> {
        let has_table = self.has.contains(Source::ByProcess);
        let Some(maps) = self.maps.as_mut().filter(|_| has_table) else { return Ok(()) };
        for (pid, _) in maps.kept()? {
            if !self.proc_root.join(pid.to_string()).exists() {
                // It may go by itself meanwhile.
                let _ = maps.table()?.remove(&pid);
            }
        }
        let cpus = maps.counters.get(&0, 0).map_err(|error| map("counters", error))?;
        self.evicted_before = evicted(&cpus, maps.kept()?.len());
        Ok(())
    }
}

impl Maps {
    /// The table of processes, whole.
    fn kept(&self) -> Result<Vec<(u32, records::Process)>, Error> {
        let Map::LruHashMap(data) = &self.processes else { return Ok(Vec::new()) };
        dump(data.fd(), "map processes", usize::MAX)
    }

    fn table(&mut self) -> Result<HashMap<&mut MapData, u32, records::Process>, Error> {
        HashMap::try_from(&mut self.processes).map_err(|error| map("processes", error))
    }
}

/// How many processes had to leave the table for others.
fn evicted(cpus: &[records::Cpu], kept: usize) -> u64 {
    let sum = |value: fn(&records::Cpu) -> u64| cpus.iter().map(value).fold(0, u64::wrapping_add);
    let left = sum(|cpu| cpu.came).wrapping_sub(sum(|cpu| cpu.went));
    left.saturating_sub(u64::try_from(kept).unwrap_or(u64::MAX))
}

fn map(name: &str, error: aya::maps::MapError) -> Error {
    Error::wrapped(format!("map {name}"), error)
}
