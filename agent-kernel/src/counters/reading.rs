//! What a look at the counters says, and what came between two of them.

use super::call::{Abi, Call};
use super::procfs::{Faults, Tcp};
use super::{Pmu, Source, Sources};
use agent_records::counters::{self as records, BUCKETS, count, request};
use std::collections::HashMap;

/// How many times took how long: the position of a time's highest bit in nanoseconds is its bucket.
pub type Histogram = [u64; BUCKETS];

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// Since the counters were made, or the kernel's since boot. They go on when an agent comes again.
    pub counted: Counted,
}

/// What was counted; `None` for what is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// System calls of processes in scope.
    pub syscalls: Option<u64>,
    /// The same by call.
    pub calls: Option<CallCounts>,
    /// Page faults.
    pub faults: Option<Faults>,
    /// Times that a thread in scope left its processor; with the whole host, as procfs has it.
    pub switches: Option<u64>,
    /// By process in scope.
    pub processes: Option<Processes>,
    /// How long threads that could run waited for a processor.
    pub run_queue: Option<Histogram>,
    /// How long requests to block devices took, with their time in the queue.
    pub block: Option<BlockTimes>,
    /// Of all processors.
    pub cpu: Option<Cpu>,
    /// TCP.
    pub tcp: Option<Tcp>,
}

/// System calls by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallCounts {
    /// Those that were made.
    pub calls: HashMap<Call, u64>,
    /// Of neither table: numbers beyond them, calls that a tracer cancelled, and those of the x32 table.
    pub other: u64,
}

/// Times of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTimes {
    /// Reads.
    pub reads: Histogram,
    /// Writes.
    pub writes: Histogram,
    /// Flushes, discards and the like.
    pub others: Histogram,
}

/// What processors did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cpu {
    /// Time in which they were not idle, all together; the kernel counts it in clock ticks.
    pub busy_ns: u64,
    /// `None` where no unit counts them.
    pub pmu: Option<Pmu>,
}

/// Processes that the table has. Their counts together with those of processes that ended, and of those
/// that had to leave the table, are the counts in all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processes {
    /// By pid, all threads together.
    pub processes: HashMap<u32, ProcessCounts>,
    /// How many had to leave the table for others since the agent began.
    pub evicted: u64,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessCounts {
    /// CLOCK_BOOTTIME of its start, nanoseconds.
    pub start_boot_ns: u64,
    /// System calls.
    pub syscalls: u64,
    /// Page faults in user mode.
    pub user_faults: u64,
    /// Page faults in kernel mode.
    pub kernel_faults: u64,
    /// Times that a thread of it left its processor.
    pub switches: u64,
}

impl Reading {
    /// Nanoseconds since an earlier reading, and what was counted in them.
    pub fn since(&self, before: &Self) -> (u64, Counted) {
        let elapsed_ns = self.boot_ns.saturating_sub(before.boot_ns);
        (elapsed_ns, self.counted.since(&before.counted))
    }
}

impl Counted {
    /// Adds up what the processors' counters say.
    pub(super) fn take(&mut self, cpus: &[records::Cpu], has: Sources) {
        let sum = |value: &dyn Fn(&records::Cpu) -> u64| {
            cpus.iter().map(value).fold(0, u64::wrapping_add)
        };
        let histogram = |value: fn(&records::Cpu) -> &records::Histogram| {
            std::array::from_fn(|bucket| sum(&|cpu| value(cpu)[bucket]))
        };
        let had =
            |source, index: usize| has.contains(source).then(|| sum(&|cpu| cpu.counts[index]));
        self.syscalls = had(Source::Syscalls, count::SYSCALLS);
        self.switches = had(Source::Switches, count::SWITCHES);
        if let (Some(faults), true) = (&mut self.faults, has.contains(Source::Faults)) {
            faults.user = had(Source::Faults, count::USER_FAULTS);
            faults.kernel = had(Source::Faults, count::KERNEL_FAULTS);
        }
        if has.contains(Source::BySyscall) {
            let of = |call: Call| {
                let number = usize::from(call.number);
                match call.abi {
                    Abi::X86_64 => sum(&|cpu| cpu.calls[number]),
                    Abi::Ia32 => sum(&|cpu| cpu.compat_calls[number]),
                }
            };
            let calls = Call::all().map(|call| (call, of(call))).filter(|(_, count)| *count > 0);
            self.calls =
                Some(CallCounts { calls: calls.collect(), other: sum(&|cpu| cpu.other_calls) });
        }
        if has.contains(Source::RunQueue) {
            self.run_queue = Some(histogram(|cpu| &cpu.run_queue));
        }
        if has.contains(Source::Block) {
            self.block = Some(BlockTimes {
                reads: histogram(|cpu| &cpu.block[request::READ]),
                writes: histogram(|cpu| &cpu.block[request::WRITE]),
                others: histogram(|cpu| &cpu.block[request::OTHER]),
            });
        }
    }

    fn since(&self, before: &Self) -> Self {
        /// What both have.
        fn both<T>(now: &Option<T>, then: &Option<T>, less: fn(&T, &T) -> T) -> Option<T> {
            now.as_ref().zip(then.as_ref()).map(|(now, then)| less(now, then))
        }
        let number = |now: &u64, then: &u64| now.wrapping_sub(*then);
        Self {
            syscalls: both(&self.syscalls, &before.syscalls, number),
            calls: both(&self.calls, &before.calls, CallCounts::since),
            faults: both(&self.faults, &before.faults, |now, then| Faults {
                served: now.served.wrapping_sub(then.served),
                major: now.major.wrapping_sub(then.major),
                user: both(&now.user, &then.user, |now, then| now.wrapping_sub(*then)),
                kernel: both(&now.kernel, &then.kernel, |now, then| now.wrapping_sub(*then)),
            }),
            switches: both(&self.switches, &before.switches, number),
            processes: both(&self.processes, &before.processes, Processes::since),
            run_queue: both(&self.run_queue, &before.run_queue, less),
            block: both(&self.block, &before.block, |now, then| BlockTimes {
                reads: less(&now.reads, &then.reads),
                writes: less(&now.writes, &then.writes),
                others: less(&now.others, &then.others),
            }),
            cpu: both(&self.cpu, &before.cpu, |now, then| Cpu {
                // The kernel's may go back a little.
                busy_ns: now.busy_ns.saturating_sub(then.busy_ns),
                pmu: both(&now.pmu, &then.pmu, |now, then| Pmu {
                    cycles: now.cycles.wrapping_sub(then.cycles),
                    instructions: now.instructions.wrapping_sub(then.instructions),
                }),
            }),
            tcp: both(&self.tcp, &before.tcp, |now, then| Tcp {
                active_opens: now.active_opens.wrapping_sub(then.active_opens),
                passive_opens: now.passive_opens.wrapping_sub(then.passive_opens),
                failed_attempts: now.failed_attempts.wrapping_sub(then.failed_attempts),
                connection_resets: now.connection_resets.wrapping_sub(then.connection_resets),
                resets_sent: now.resets_sent.wrapping_sub(then.resets_sent),
                retransmits: now.retransmits.wrapping_sub(then.retransmits),
                segments_sent: now.segments_sent.wrapping_sub(then.segments_sent),
                segments_received: now.segments_received.wrapping_sub(then.segments_received),
            }),
        }
    }
}

fn less(now: &Histogram, then: &Histogram) -> Histogram {
    std::array::from_fn(|bucket| now[bucket].wrapping_sub(then[bucket]))
}

impl CallCounts {
    fn since(&self, before: &Self) -> Self {
        let less = |(call, count): (&Call, &u64)| {
            let before = before.calls.get(call).copied().unwrap_or(0);
            Some((*call, count.wrapping_sub(before))).filter(|(_, count)| *count > 0)
        };
        Self {
            calls: self.calls.iter().filter_map(less).collect(),
            other: self.other.wrapping_sub(before.other),
        }
    }
}

impl Processes {
    pub(super) fn new(kept: &[(u32, records::Process)], evicted: u64) -> Self {
        let of = |(pid, kept): &(u32, records::Process)| {
            let counts = ProcessCounts {
                start_boot_ns: kept.start_boot_ns,
                syscalls: kept.counts[count::SYSCALLS],
                user_faults: kept.counts[count::USER_FAULTS],
                kernel_faults: kept.counts[count::KERNEL_FAULTS],
                switches: kept.counts[count::SWITCHES],
            };
            (*pid, counts)
        };
        Self { processes: kept.iter().map(of).collect(), evicted }
    }

    /// Those that did something.
    fn since(&self, before: &Self) -> Self {
        let less = |(pid, now): (&u32, &ProcessCounts)| {
            let same = |then: &&ProcessCounts| then.start_boot_ns == now.start_boot_ns;
            let then = before.processes.get(pid).filter(same).copied().unwrap_or_default();
            let less = now.less(&then);
            (less.sum() > 0).then_some((*pid, less))
        };
        Self {
            processes: self.processes.iter().filter_map(less).collect(),
            evicted: self.evicted.saturating_sub(before.evicted),
        }
    }
}

impl ProcessCounts {
    /// One that had to leave the table and came again began anew.
    fn less(&self, then: &Self) -> Self {
        let again = self.syscalls < then.syscalls
            || self.user_faults < then.user_faults
            || self.kernel_faults < then.kernel_faults
            || self.switches < then.switches;
        let then = if again { Self::default() } else { *then };
        Self {
            start_boot_ns: self.start_boot_ns,
            syscalls: self.syscalls - then.syscalls,
            user_faults: self.user_faults - then.user_faults,
            kernel_faults: self.kernel_faults - then.kernel_faults,
            switches: self.switches - then.switches,
        }
    }

    /// All that it did.
    pub fn sum(&self) -> u64 {
        self.syscalls + self.user_faults + self.kernel_faults + self.switches
    }
}
