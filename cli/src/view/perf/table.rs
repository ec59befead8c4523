//! Lines of tables of counters.

use super::super::read::{HostRow, Record};
use super::{CounterView, CountersView, HistogramView, OthersView, ProcessView, SyscallView};
use serde::Serialize;

/// A host's line: what it has not is blank.
pub(super) fn host_cells(view: &CountersView) -> Vec<String> {
    let faults = view.faults.as_ref();
    let block = view.block.as_ref();
    let tcp = |of: fn(&super::TcpView) -> [Option<CounterView>; 2]| {
        let counters = view.tcp.as_ref().map(of)?;
        let rates = counters.into_iter().flatten().map(|counter| counter.per_second);
        Some(rates.sum::<f64>())
    };
    let p99 = |histogram: Option<&HistogramView>| time(histogram.and_then(|it| it.p99_ns));
    let disk = block.and_then(|it| it.reads.p99_ns.max(it.writes.p99_ns));
    let wait = view.run_queue.as_ref();
    let cpu = view.cpu.as_ref();
    vec![
        rate(view.syscalls),
        rate(faults.and_then(|it| it.served)),
        rate(faults.and_then(|it| it.major)),
        rate(view.switches),
        cpu.map_or_else(String::new, |cpu| format!("{:.1}", cpu.busy_percent)),
        p99(wait),
        time(disk),
        number(tcp(|tcp| [tcp.active_opens, tcp.passive_opens])),
        number(tcp(|tcp| [tcp.retransmits, None])),
        number(tcp(|tcp| [tcp.connection_resets, tcp.resets_sent])),
        rate(faults.and_then(|it| it.user)),
        rate(faults.and_then(|it| it.kernel)),
        time(wait.and_then(|it| it.p50_ns)),
        p99(block.map(|it| &it.reads)),
        p99(block.map(|it| &it.writes)),
        rate(cpu.and_then(|it| it.cycles)),
        rate(cpu.and_then(|it| it.instructions)),
        view.scope.clone(),
    ]
}

/// A rate for people: whole from ten on.
fn number(per_second: Option<f64>) -> String {
    match per_second {
        None => String::new(),
        Some(rate) if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
    }
}

fn rate(counter: Option<CounterView>) -> String {
    number(counter.map(|counter| counter.per_second))
}

/// `512ns`, `4µs`, `1.0s`: ends of buckets are powers of two.
pub(super) fn time(ns: Option<u64>) -> String {
    let Some(ns) = ns else { return String::new() };
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ => format!("{}s", ns / 1_000_000_000),
    }
}

/// A line of a table by system call.
#[derive(Debug, Serialize)]
pub(crate) struct SyscallLine(Vec<String>);

/// A line of a table by process.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessLine(Vec<String>);

impl Record for SyscallLine {
    const NOUN: &'static str = "system calls";
    const COLUMNS: &'static [&'static str] = &["SYSCALL", "CALLS/S", "CALLS"];
    const WIDE_COLUMNS: &'static [&'static str] = &["TOTAL", "ABI", "NUMBER"];

    fn cells(&self) -> Vec<String> {
        self.0.clone()
    }
}

impl Record for ProcessLine {
    const NOUN: &'static str = "processes";
    const COLUMNS: &'static [&'static str] =
        &["PID", "NAME", "SYSCALLS/S", "USER FAULTS/S", "KERNEL FAULTS/S", "SWITCHES/S"];
    const WIDE_COLUMNS: &'static [&'static str] = &["SYSCALLS", "STARTED"];

    fn cells(&self) -> Vec<String> {
        self.0.clone()
    }
}

impl SyscallLine {
    /// Those of each host, and the others together.
    pub(crate) fn rows(rows: &[HostRow<CountersView>]) -> Vec<HostRow<Self>> {
        lines(rows, |view| {
            let calls = view.by_syscall.iter().flatten().map(Self::of);
            let others = view.other_syscalls.filter(|others| *others > 0);
            calls.chain(others.map(|others| Self::others(view, others))).collect()
        })
    }

    fn of(call: &SyscallView) -> Self {
        let (calls, total) = call.calls.map_or((0, 0), |calls| (calls.count, calls.total));
        // 64-bit programs are the rule.
        let name = match call.abi.as_str() {
            "ia32" => format!("{} (ia32)", call.name),
            _ => call.name.clone(),
        };
        let (calls, total) = (calls.to_string(), total.to_string());
        Self(vec![name, rate(call.calls), calls, total, call.abi.clone(), call.number.to_string()])
    }

    fn others(view: &CountersView, count: u64) -> Self {
        let rate = number(per_second(view, count));
        let blank = String::new;
        Self(vec!["(others)".to_owned(), rate, count.to_string(), blank(), blank(), blank()])
    }
}

impl ProcessLine {
    /// Those of each host, and the others together.
    pub(crate) fn rows(rows: &[HostRow<CountersView>]) -> Vec<HostRow<Self>> {
        lines(rows, |view| {
            let processes = view.by_process.iter().flatten().map(Self::of);
            let others = view.other_processes.as_ref().map(|others| Self::others(view, others));
            processes.chain(others).collect()
        })
    }

    fn of(process: &ProcessView) -> Self {
        Self(vec![
            process.pid.to_string(),
            process.name.clone().unwrap_or_default(),
            rate(process.syscalls),
            rate(process.user_faults),
            rate(process.kernel_faults),
            rate(process.switches),
            process.syscalls.map_or_else(String::new, |it| it.count.to_string()),
            process.start_time.clone().unwrap_or_default(),
        ])
    }

    fn others(view: &CountersView, others: &OthersView) -> Self {
        let rate = |count: u64| number(per_second(view, count));
        Self(vec![
            String::new(),
            "(others)".to_owned(),
            rate(others.syscalls),
            rate(others.user_faults),
            rate(others.kernel_faults),
            rate(others.switches),
            others.syscalls.to_string(),
            String::new(),
        ])
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
fn per_second(view: &CountersView, count: u64) -> Option<f64> {
    Some(1_000.0 * count as f64 / view.interval_ms.max(1) as f64)
}

fn lines<T>(
    rows: &[HostRow<CountersView>],
    lines: impl Fn(&CountersView) -> Vec<T>,
) -> Vec<HostRow<T>> {
    let row = |row: &HostRow<CountersView>| HostRow {
        host: row.host.clone(),
        result: match &row.result {
            Ok(views) => Ok(views.iter().flat_map(&lines).collect()),
            Err(error) => Err(error.clone()),
        },
    };
    rows.iter().map(row).collect()
}
