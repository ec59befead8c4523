//! Who or what most likely made a value too high.

use crate::text::{comm, text};
use agent_kernel::counters::{Counted, ProcessCounts};
use agent_kernel::proc::{CpuSample, Order, Query, memory, processes};
use kctl_events::alert::What;
use kctl_proto::agent::v1 as pb;
use std::path::Path;

/// What causes are found in.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) proc_root: &'a Path,
    /// What came since the look before.
    pub(super) counted: Option<&'a (f64, Counted)>,
    /// From when the processors were too busy.
    pub(super) cpu_sample: Option<&'a CpuSample>,
}

impl Evidence<'_> {
    /// `None` where nobody can be blamed, or nothing is known.
    pub(super) fn cause(&self, what: What) -> Option<pb::AlertCause> {
        match what {
            What::Syscalls => {
                let mut cause = self.counting(|it| it.syscalls).unwrap_or_default();
                cause.syscall = self.call().unwrap_or_default();
                Some(cause).filter(|it| *it != pb::AlertCause::default())
            }
            What::Faults => self.counting(|it| it.user_faults + it.kernel_faults),
            What::Switches => self.counting(|it| it.switches),
            What::Cpu => self.listed(Order::Cpu),
            What::Memory | What::MemoryPressure => self.listed(Order::Rss),
            What::Disk | What::Conntrack | What::Link => None,
        }
    }

    /// The process that counted the most.
    fn counting(&self, of: fn(&ProcessCounts) -> u64) -> Option<pb::AlertCause> {
        let (seconds, counted) = self.counted?;
        let all = counted.processes.as_ref()?.processes.iter();
        let (pid, most) = all.map(|(pid, counts)| (*pid, of(counts))).max_by_key(|it| it.1)?;
        #[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
        let rate = most as f64 / seconds;
        (most > 0).then(|| cause(pid, comm(self.proc_root, pid), rate))
    }

    /// The system call that was made the most.
    fn call(&self) -> Option<String> {
        let (_, counted) = self.counted?;
        let all = counted.calls.as_ref()?.calls.iter();
        all.max_by_key(|(_, count)| **count).map(|(call, _)| call.to_string())
    }

    /// The process that has the most.
    fn listed(&self, order: Order) -> Option<pb::AlertCause> {
        let since = self.cpu_sample.filter(|_| order == Order::Cpu).cloned();
        let query =
            Query { order, limit: Some(1), without_cgroup: true, since, ..Query::default() };
        let first = processes(self.proc_root, query).ok()?.next()?.ok()?;
        let share = if order == Order::Cpu {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            #[expect(clippy::cast_precision_loss, reason = "a count of processors")]
            let share = first.cpu_percent / processors as f64;
            share
        } else {
            let (memory, _) = memory(self.proc_root).ok()?;
            #[expect(clippy::cast_precision_loss, reason = "a percentage is no exact number")]
            let share = 100.0 * first.rss_bytes as f64 / memory.total_bytes.max(1) as f64;
            share
        };
        Some(cause(first.pid, text(&first.comm), share))
    }
}

fn cause(pid: u32, comm: String, value: f64) -> pb::AlertCause {
    let process = pb::EventProcess { pid: Some(pid), comm, ..pb::EventProcess::default() };
    pb::AlertCause { process: Some(process), value: Some(value), syscall: String::new() }
}
