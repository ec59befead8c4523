//! Counters of a host in one interval: as JSON, as tables by host, system call or process, and histograms
//! as bars.

mod bars;
mod table;

pub(crate) use bars::bars;
pub(crate) use table::{ProcessLine, SyscallLine};

use super::{hundredths, read::Record, some};
use crate::time::rfc3339;
use kctl_proto::agent::v1::{self as pb, counters};
use serde::Serialize;

/// A counter that only grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct CounterView {
    total: u64,
    count: u64,
    pub(super) per_second: f64,
}

/// One interval of one host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CountersView {
    pub(crate) time: String,
    interval_ms: u64,
    scope: String,
    syscalls: Option<CounterView>,
    faults: Option<FaultsView>,
    switches: Option<CounterView>,
    cpu: Option<CpuView>,
    run_queue: Option<HistogramView>,
    block: Option<BlockView>,
    tcp: Option<TcpView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_syscall: Option<Vec<SyscallView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_syscalls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_process: Option<Vec<ProcessView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_processes: Option<OthersView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_known: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_evicted: Option<u64>,
    missing: Vec<MissingView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct FaultsView {
    served: Option<CounterView>,
    major: Option<CounterView>,
    user: Option<CounterView>,
    kernel: Option<CounterView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CpuView {
    source: String,
    busy_ns: Option<CounterView>,
    busy_percent: f64,
    cycles: Option<CounterView>,
    instructions: Option<CounterView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct HistogramView {
    count: u64,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    buckets: Vec<BucketView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct BucketView {
    from_ns: u64,
    below_ns: u64,
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct BlockView {
    reads: HistogramView,
    writes: HistogramView,
    others: HistogramView,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct TcpView {
    active_opens: Option<CounterView>,
    passive_opens: Option<CounterView>,
    failed_attempts: Option<CounterView>,
    connection_resets: Option<CounterView>,
    resets_sent: Option<CounterView>,
    retransmits: Option<CounterView>,
    segments_sent: Option<CounterView>,
    segments_received: Option<CounterView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SyscallView {
    name: String,
    abi: String,
    number: u32,
    calls: Option<CounterView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ProcessView {
    pid: u32,
    /// `None` when it ended meanwhile.
    name: Option<String>,
    start_time: Option<String>,
    syscalls: Option<CounterView>,
    user_faults: Option<CounterView>,
    kernel_faults: Option<CounterView>,
    switches: Option<CounterView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct OthersView {
    syscalls: u64,
    user_faults: u64,
    kernel_faults: u64,
    switches: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct MissingView {
    what: String,
    why: String,
    remedy: Option<String>,
}

impl From<pb::Counter> for CounterView {
    fn from(counter: pb::Counter) -> Self {
        let pb::Counter { total, count, per_second } = counter;
        Self { total, count, per_second: hundredths(per_second) }
    }
}

fn counter(counter: Option<pb::Counter>) -> Option<CounterView> {
    counter.map(CounterView::from)
}

impl CountersView {
    /// Of an interval that was asked for with these lists.
    pub(crate) fn new(told: pb::Counters, with_syscalls: bool, with_processes: bool) -> Self {
        let others = told.other_processes.map(|others| OthersView {
            syscalls: others.syscalls,
            user_faults: others.user_faults,
            kernel_faults: others.kernel_faults,
            switches: others.switches,
        });
        let processes = with_processes
            .then(|| told.by_process.into_iter().map(ProcessView::from).collect::<Vec<_>>());
        Self {
            time: rfc3339(told.time_unix_ms).unwrap_or_default(),
            interval_ms: (told.interval_ns + 500_000) / 1_000_000,
            scope: told.scope,
            syscalls: counter(told.syscalls),
            faults: told.faults.map(|faults| FaultsView {
                served: counter(faults.served),
                major: counter(faults.major),
                user: counter(faults.user),
                kernel: counter(faults.kernel),
            }),
            switches: counter(told.switches),
            cpu: told.cpu.map(|cpu| CpuView {
                source: cpu.source,
                busy_ns: counter(cpu.busy_ns),
                busy_percent: hundredths(cpu.busy_percent),
                cycles: counter(cpu.cycles),
                instructions: counter(cpu.instructions),
            }),
            run_queue: told.run_queue.map(HistogramView::from),
            block: told.block.map(|block| BlockView {
                reads: block.reads.unwrap_or_default().into(),
                writes: block.writes.unwrap_or_default().into(),
                others: block.others.unwrap_or_default().into(),
            }),
            tcp: told.tcp.map(TcpView::from),
            by_syscall: with_syscalls
                .then(|| told.by_syscall.into_iter().map(SyscallView::from).collect()),
            other_syscalls: with_syscalls.then_some(told.other_syscalls),
            by_process: processes,
            other_processes: others,
            processes_known: with_processes.then_some(told.processes_known),
            processes_evicted: with_processes.then_some(told.processes_evicted),
            missing: told
                .missing
                .into_iter()
                .map(|it| MissingView { what: it.what, why: it.why, remedy: some(it.remedy) })
                .collect(),
        }
    }

    /// How many processes had to leave the table, where that is any.
    pub(crate) fn evicted(&self) -> Option<u64> {
        self.processes_evicted.filter(|evicted| *evicted > 0)
    }
}

impl From<counters::Histogram> for HistogramView {
    fn from(told: counters::Histogram) -> Self {
        let bucket = |it: counters::Bucket| BucketView {
            from_ns: it.from_ns,
            below_ns: it.below_ns,
            count: it.count,
        };
        Self {
            count: told.count,
            p50_ns: told.p50_ns,
            p99_ns: told.p99_ns,
            buckets: told.buckets.into_iter().map(bucket).collect(),
        }
    }
}

impl From<counters::Tcp> for TcpView {
    fn from(tcp: counters::Tcp) -> Self {
        Self {
            active_opens: counter(tcp.active_opens),
            passive_opens: counter(tcp.passive_opens),
            failed_attempts: counter(tcp.failed_attempts),
            connection_resets: counter(tcp.connection_resets),
            resets_sent: counter(tcp.resets_sent),
            retransmits: counter(tcp.retransmits),
            segments_sent: counter(tcp.segments_sent),
            segments_received: counter(tcp.segments_received),
        }
    }
}

impl From<counters::Syscall> for SyscallView {
    fn from(call: counters::Syscall) -> Self {
        let calls = counter(call.calls);
        Self { name: call.name, abi: call.abi, number: call.number, calls }
    }
}

impl From<counters::Process> for ProcessView {
    fn from(process: counters::Process) -> Self {
        Self {
            pid: process.pid,
            name: some(process.name),
            start_time: Some(process.start_unix_ms).filter(|ms| *ms != 0).and_then(rfc3339),
            syscalls: counter(process.syscalls),
            user_faults: counter(process.user_faults),
            kernel_faults: counter(process.kernel_faults),
            switches: counter(process.switches),
        }
    }
}

/// By host.
impl Record for CountersView {
    const NOUN: &'static str = "counters";
    const COLUMNS: &'static [&'static str] = &[
        "SYSCALLS/S",
        "FAULTS/S",
        "MAJOR/S",
        "SWITCHES/S",
        "CPU%",
        "WAIT P99",
        "DISK P99",
        "CONNS/S",
        "RETRANS/S",
        "RESETS/S",
    ];
    const WIDE_COLUMNS: &'static [&'static str] = &[
        "USER FAULTS/S",
        "KERNEL FAULTS/S",
        "WAIT P50",
        "READ P99",
        "WRITE P99",
        "CYCLES/S",
        "INSNS/S",
        "SCOPE",
    ];

    fn cells(&self) -> Vec<String> {
        table::host_cells(self)
    }

    fn is_whole(&self) -> bool {
        true
    }
}
