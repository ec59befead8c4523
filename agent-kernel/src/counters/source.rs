//! What can be counted, and what each of it needs. It must not know how it is had.

use std::fmt;
use std::str::FromStr;

/// Something that is counted, or not, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Source {
    /// System calls in all.
    Syscalls,
    /// System calls by their numbers.
    BySyscall,
    /// System calls, page faults and switches by process: of these, what is counted by a program.
    ByProcess,
    /// Page faults.
    Faults,
    /// Times that a processor went over to another thread.
    Switches,
    /// How long threads wait for a processor.
    RunQueue,
    /// How long requests to block devices take.
    Block,
    /// Cycles and instructions, and the time that processors are busy.
    Cpu,
    /// New connections, segments that were sent again, resets.
    Tcp,
}

const ALL: [Source; 9] = [
    Source::Syscalls,
    Source::BySyscall,
    Source::ByProcess,
    Source::Faults,
    Source::Switches,
    Source::RunQueue,
    Source::Block,
    Source::Cpu,
    Source::Tcp,
];

impl Source {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter()
    }

    /// As configurations call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syscalls => "syscalls",
            Self::BySyscall => "by-syscall",
            Self::ByProcess => "by-process",
            Self::Faults => "faults",
            Self::Switches => "switches",
            Self::RunQueue => "run-queue",
            Self::Block => "block",
            Self::Cpu => "cpu",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No source has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no counter; there are {list}", list = ALL.map(Source::name).join(", "))]
pub struct Unknown(String);

impl FromStr for Source {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let found = ALL.into_iter().find(|source| source.name() == text);
        found.ok_or_else(|| Unknown(text.to_owned()))
    }
}

/// A set of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(u16);

impl Sources {
    /// Whether the source is in it.
    pub fn contains(self, source: Source) -> bool {
        self.0 & 1 << source as u8 != 0
    }

    /// Takes it out.
    pub fn remove(&mut self, source: Source) {
        self.0 &= !(1 << source as u8);
    }

    /// Whether none is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Source> {
        Source::all().filter(move |source| self.contains(*source))
    }
}

impl FromIterator<Source> for Sources {
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Self {
        Self(sources.into_iter().fold(0, |bits, source| bits | 1 << source as u8))
    }
}

/// Something that can't be counted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What: `syscalls`, `run-queue`.
    pub source: Source,
    /// What this kernel has not, or refuses.
    pub why: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
}

/// What is still wanted, and what can't be had.
#[derive(Debug)]
pub(super) struct Asked {
    sources: Sources,
    missing: Vec<Missing>,
}

impl Asked {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources, missing: Vec::new() }
    }

    pub(super) fn sources(&self) -> Sources {
        self.sources
    }

    pub(super) fn wants(&self, source: Source) -> bool {
        self.sources.contains(source)
    }

    pub(super) fn miss(&mut self, source: Source, why: String, remedy: Option<String>) {
        if self.wants(source) {
            self.sources.remove(source);
            self.missing.push(Missing { source, why, remedy });
        }
    }

    pub(super) fn into_missing(self) -> Vec<Missing> {
        self.missing
    }
}

/// A program: its tracepoint, and the sources that it serves, any of which wants it.
pub(super) struct Probe {
    pub(super) program: &'static str,
    pub(super) tracepoint: &'static str,
    pub(super) serves: &'static [Source],
    /// Members of the kernel's structs that it can't do without.
    pub(super) needs: &'static [(&'static str, &'static str)],
}

/// Who counts is known by these.
const TASK: &[(&str, &str)] = &[("task_struct", "tgid"), ("task_struct", "flags")];

/// In the order of attaching: what ends must be seen before anything comes.
pub(super) const PROBES: [Probe; 6] = [
    Probe {
        program: "exit",
        tracepoint: "sched_process_exit",
        serves: &[Source::ByProcess],
        needs: &[
            ("task_struct", "tgid"),
            ("task_struct", "signal"),
            ("signal_struct", "live"),
            ("task_struct", "group_leader"),
            ("task_struct", "start_boottime"),
        ],
    },
    Probe {
        program: "sys_enter",
        tracepoint: "sys_enter",
        serves: &[Source::Syscalls],
        needs: TASK,
    },
    Probe {
        program: "page_fault_user",
        tracepoint: "page_fault_user",
        serves: &[Source::Faults],
        needs: TASK,
    },
    Probe {
        program: "page_fault_kernel",
        tracepoint: "page_fault_kernel",
        serves: &[Source::Faults],
        needs: TASK,
    },
    Probe {
        program: "sched_switch",
        tracepoint: "sched_switch",
        serves: &[Source::Switches, Source::RunQueue],
        needs: TASK,
    },
    Probe {
        program: "block_rq_complete",
        tracepoint: "block_rq_complete",
        serves: &[Source::Block],
        needs: &[("request", "cmd_flags"), ("request", "__data_len"), ("request", "start_time_ns")],
    },
];

/// What single sources need beyond the programs that serve them.
pub(super) const NEEDS: [(Source, &[(&str, &str)]); 2] = [
    (
        Source::RunQueue,
        &[
            ("task_struct", "sched_info"),
            ("sched_info", "last_queued"),
            ("task_struct", "se"),
            ("sched_entity", "cfs_rq"),
            ("cfs_rq", "rq"),
            ("rq", "clock"),
        ],
    ),
    (Source::BySyscall, &[("task_struct", "thread_info"), ("thread_info", "status")]),
];

/// Sources that are nothing without another one.
pub(super) fn settle(asked: &mut Asked) {
    if !asked.wants(Source::Syscalls) {
        let why = "system calls are not counted".to_owned();
        asked.miss(Source::BySyscall, why, None);
    }
    let programs = [Source::Syscalls, Source::Faults, Source::Switches];
    if !programs.into_iter().any(|source| asked.wants(source)) {
        let why = "neither system calls nor page faults nor switches are counted".to_owned();
        asked.miss(Source::ByProcess, why, None);
    }
}
