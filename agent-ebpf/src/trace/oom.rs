//! The kernel kills a process for want of memory, in the context of any task.

use crate::kernel::{layout, setting};
use crate::or_zero::{follow, read};
use crate::ring;
use crate::task::{Task, header};
use agent_records::trace::{ABSENT, Oom, Process, kind};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

const UNKNOWN: u64 = u64::MAX;

/// `mark_victim(task, uid)`; before Linux 6.8 `mark_victim(pid)`, which is the number of the victim's first
/// thread that still has memory.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn oom(ctx: RawTracePointContext) -> i32 {
    let victim: u64 = ctx.arg(0);
    let header = header(kind::OOM);
    if setting!(tells_victim) == 0 {
        // Whose cgroup it is in can't be told either.
        if setting!(scope) == 0 {
            let process =
                Process { cgroup: 0, pid: victim as u32, ppid: 0, uid: 0, zero: 0, comm: [0; 16] };
            ring::submit(&Oom {
                header,
                victim: process,
                virtual_pages: UNKNOWN,
                resident_pages: [UNKNOWN; 4],
            });
        }
        return 0;
    }
    let task = Task(victim as *const u8);
    if task.in_scope() {
        let mm = follow(task.0, layout!(task_mm));
        ring::submit(&Oom {
            header,
            victim: task.process(),
            virtual_pages: read(mm, layout!(mm_total_vm)),
            resident_pages: [resident(mm, 0), resident(mm, 1), resident(mm, 2), resident(mm, 3)],
        });
    }
    0
}

/// A counter of resident memory, as the kernel itself tells it: without what CPUs have not added yet.
#[inline(always)]
fn resident(mm: *const u8, counter: u32) -> u64 {
    if layout!(mm_rss_stat) == ABSENT || setting!(rss_step) == 0 {
        return UNKNOWN;
    }
    let at = layout!(mm_rss_stat) + setting!(rss_first) + counter * setting!(rss_step);
    let pages: i64 = read(mm, at);
    if pages < 0 { 0 } else { pages as u64 }
}
