//! An interval as the wire has it.

use crate::counters::About;
use crate::text::comm;
use agent_kernel::counters::{
    BlockTimes, Call, CallCounts, Counted, Cpu, Histogram, ProcessCounts, Reading,
};
use kctl_proto::agent::v1::{self as pb, counters};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a caller wants beside the sums.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) by_syscall: bool,
    pub(super) by_process: bool,
    /// `None` for all.
    pub(super) calls: Option<HashSet<Call>>,
    pub(super) pid: Option<u32>,
    pub(super) top: usize,
}

/// Makes counters of sums and differences.
#[derive(Clone, Copy)]
struct Pace {
    seconds: f64,
}

impl Pace {
    #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
    fn counter(self, total: u64, count: u64) -> pb::Counter {
        pb::Counter { total, count, per_second: count as f64 / self.seconds }
    }

    fn of(self, total: Option<u64>, count: Option<u64>) -> Option<pb::Counter> {
        total.zip(count).map(|(total, count)| self.counter(total, count))
    }
}

/// What came between two readings.
pub(super) fn counters(
    now: &Reading,
    before: &Reading,
    wanted: &Wanted,
    about: &About,
    proc_root: &Path,
) -> pb::Counters {
    let (interval_ns, counted) = now.since(before);
    #[expect(clippy::cast_precision_loss, reason = "an interval is far below 2^53 nanoseconds")]
    let pace = Pace { seconds: interval_ns.max(1) as f64 / 1e9 };
    let whole = &now.counted;
    let mut told = pb::Counters {
        time_unix_ms: unix_ms(),
        interval_ns,
        scope: about.scope.clone(),
        syscalls: pace.of(whole.syscalls, counted.syscalls),
        faults: faults(pace, whole, &counted),
        switches: pace.of(whole.switches, counted.switches),
        cpu: whole.cpu.zip(counted.cpu).map(|(whole, count)| cpu(pace, whole, count, interval_ns)),
        run_queue: counted.run_queue.as_ref().map(histogram),
        block: counted.block.as_ref().map(block),
        tcp: tcp(pace, whole, &counted),
        missing: about.missing.clone(),
        ..pb::Counters::default()
    };
    if wanted.by_syscall {
        by_syscall(&mut told, pace, whole, &counted, wanted);
    }
    if wanted.by_process {
        by_process(&mut told, pace, now, &counted, wanted, proc_root);
    }
    told
}

fn faults(pace: Pace, whole: &Counted, counted: &Counted) -> Option<counters::Faults> {
    let (whole, count) = whole.faults.zip(counted.faults)?;
    Some(counters::Faults {
        served: Some(pace.counter(whole.served, count.served)),
        major: Some(pace.counter(whole.major, count.major)),
        user: pace.of(whole.user, count.user),
        kernel: pace.of(whole.kernel, count.kernel),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a percentage is no exact number")]
fn cpu(pace: Pace, whole: Cpu, count: Cpu, interval_ns: u64) -> counters::Cpu {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let all = (interval_ns.max(1) as f64) * processors as f64;
    let busy_percent = (100.0 * count.busy_ns as f64 / all).min(100.0);
    let pmu = whole.pmu.zip(count.pmu);
    counters::Cpu {
        source: if pmu.is_some() { "pmu" } else { "task-clock" }.to_owned(),
        busy_ns: Some(pace.counter(whole.busy_ns, count.busy_ns)),
        busy_percent,
        cycles: pmu.map(|(whole, count)| pace.counter(whole.cycles, count.cycles)),
        instructions: pmu
            .map(|(whole, count)| pace.counter(whole.instructions, count.instructions)),
    }
}

fn block(times: &BlockTimes) -> counters::Block {
    counters::Block {
        reads: Some(histogram(&times.reads)),
        writes: Some(histogram(&times.writes)),
        others: Some(histogram(&times.others)),
    }
}

fn tcp(pace: Pace, whole: &Counted, counted: &Counted) -> Option<counters::Tcp> {
    let (whole, count) = whole.tcp.zip(counted.tcp)?;
    let counter = |total, count| Some(pace.counter(total, count));
    Some(counters::Tcp {
        active_opens: counter(whole.active_opens, count.active_opens),
        passive_opens: counter(whole.passive_opens, count.passive_opens),
        failed_attempts: counter(whole.failed_attempts, count.failed_attempts),
        connection_resets: counter(whole.connection_resets, count.connection_resets),
        resets_sent: counter(whole.resets_sent, count.resets_sent),
        retransmits: counter(whole.retransmits, count.retransmits),
        segments_sent: counter(whole.segments_sent, count.segments_sent),
        segments_received: counter(whole.segments_received, count.segments_received),
    })
}

/// From the first bucket that is not empty to the last.
fn histogram(times: &Histogram) -> counters::Histogram {
    let count: u64 = times.iter().sum();
    let first = times.iter().position(|count| *count > 0).unwrap_or(0);
    let end = times.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    let bucket = |at: usize| counters::Bucket {
        from_ns: if at == 0 { 0 } else { 1 << at },
        below_ns: 2 << at,
        count: times[at],
    };
    let quantile = |percent: u64| {
        let mut seen = 0;
        let at = times.iter().position(|count| {
            seen += count;
            // At least one of them.
            seen.saturating_mul(100) >= count_of(percent, times).max(1)
        });
        at.filter(|_| count > 0).map(|at| 2 << at)
    };
    counters::Histogram {
        buckets: (first..end).map(bucket).collect(),
        count,
        p50_ns: quantile(50),
        p99_ns: quantile(99),
    }
}

/// So many percent of all, times 100.
fn count_of(percent: u64, times: &Histogram) -> u64 {
    times.iter().sum::<u64>().saturating_mul(percent)
}

fn by_syscall(
    told: &mut pb::Counters,
    pace: Pace,
    whole: &Counted,
    counted: &Counted,
    wanted: &Wanted,
) {
    let (Some(whole), Some(count)) = (&whole.calls, &counted.calls) else { return };
    let all: u64 = count.calls.values().sum::<u64>() + count.other;
    let rows = top_calls(count, wanted);
    told.other_syscalls = all - rows.iter().map(|(_, count)| count).sum::<u64>();
    let row = |&(call, count): &(Call, u64)| counters::Syscall {
        name: call.to_string(),
        abi: call.abi.name().to_owned(),
        number: call.number.into(),
        calls: Some(pace.counter(whole.calls.get(&call).copied().unwrap_or(count), count)),
    };
    told.by_syscall = rows.iter().map(row).collect();
}

/// Those that are asked for by name are told even if there was none.
fn top_calls(count: &CallCounts, wanted: &Wanted) -> Vec<(Call, u64)> {
    let of = |call: &Call| count.calls.get(call).copied().unwrap_or(0);
    let mut rows: Vec<(Call, u64)> = match &wanted.calls {
        Some(calls) => calls
            .iter()
            .map(|call| (*call, of(call)))
            // Of 32-bit programs there are mostly none.
            .filter(|(call, count)| *count > 0 || call.abi == agent_kernel::counters::Abi::X86_64)
            .collect(),
        None => count.calls.iter().map(|(call, count)| (*call, *count)).collect(),
    };
    rows.sort_unstable_by_key(|(call, count)| (Reverse(*count), *call));
    rows.truncate(wanted.top);
    rows
}

fn by_process(
    told: &mut pb::Counters,
    pace: Pace,
    now: &Reading,
    counted: &Counted,
    wanted: &Wanted,
    proc_root: &Path,
) {
    let (Some(whole), Some(count)) = (&now.counted.processes, &counted.processes) else { return };
    let wants = |pid: &u32| wanted.pid.is_none_or(|wanted| wanted == *pid);
    let mut rows: Vec<(u32, ProcessCounts)> =
        count.processes.iter().map(|(pid, counts)| (*pid, *counts)).collect();
    rows.retain(|(pid, _)| wants(pid));
    // Who did nothing, but is asked for by number.
    if let Some(pid) = wanted.pid.filter(|_| rows.is_empty())
        && proc_root.join(pid.to_string()).exists()
    {
        rows.push((pid, ProcessCounts::default()));
    }
    rows.sort_unstable_by_key(|(pid, counts)| (Reverse(counts.sum()), *pid));
    rows.truncate(wanted.top);
    let boot_unix_ms = told.time_unix_ms - i64::try_from(now.boot_ns / 1_000_000).unwrap_or(0);
    let row = |&(pid, counts): &(u32, ProcessCounts)| {
        let total = whole.processes.get(&pid).copied().unwrap_or(counts);
        let counter = |of: fn(&ProcessCounts) -> u64| Some(pace.counter(of(&total), of(&counts)));
        counters::Process {
            pid,
            name: comm(proc_root, pid),
            start_unix_ms: match total.start_boot_ns / 1_000_000 {
                0 => 0,
                ms => boot_unix_ms + i64::try_from(ms).unwrap_or(0),
            },
            syscalls: counter(|it| it.syscalls),
            user_faults: counter(|it| it.user_faults),
            kernel_faults: counter(|it| it.kernel_faults),
            switches: counter(|it| it.switches),
        }
    };
    told.by_process = rows.iter().map(row).collect();
    let listed = |of: fn(&ProcessCounts) -> u64| rows.iter().map(|(_, it)| of(it)).sum::<u64>();
    let faults = counted.faults.unwrap_or_default();
    told.other_processes = Some(counters::Others {
        syscalls: counted.syscalls.unwrap_or(0).saturating_sub(listed(|it| it.syscalls)),
        user_faults: faults.user.unwrap_or(0).saturating_sub(listed(|it| it.user_faults)),
        kernel_faults: faults.kernel.unwrap_or(0).saturating_sub(listed(|it| it.kernel_faults)),
        switches: counted.switches.unwrap_or(0).saturating_sub(listed(|it| it.switches)),
    });
    told.processes_known = u64::try_from(whole.processes.len()).unwrap_or(u64::MAX);
    told.processes_evicted = whole.evicted;
}

fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_told_from_its_first_time_to_its_last() {
        let mut times = [0; 38];
        times[10] = 98;
        times[20] = 2;
        let told = histogram(&times);
        assert_eq!(told.buckets.len(), 11);
        assert_eq!((told.buckets[0].from_ns, told.buckets[0].below_ns), (1_024, 2_048));
        assert_eq!((told.buckets[10].count, told.count), (2, 100));
        assert_eq!((told.p50_ns, told.p99_ns), (Some(2_048), Some(1 << 21)));
        let none = histogram(&[0; 38]);
        assert_eq!((none.buckets.len(), none.p50_ns), (0, None));
        let mut short = [0; 38];
        short[0] = 1;
        let told = histogram(&short);
        assert_eq!(
            (told.buckets[0].from_ns, told.buckets[0].below_ns, told.p99_ns),
            (0, 2, Some(2))
        );
    }
}
