//! Threads that leave a processor, and how long those that come to it have waited.

use crate::cpu::{add, this};
use crate::histogram;
use crate::kernel::{Address, layout, setting};
use crate::or_zero::{follow, read};
use crate::task::{Task, in_scope};
use agent_records::counters::{Cpu, count};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// `sched_switch(preempt, previous, next, previous state)`. The task that runs is still the previous one.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    let Some(cpu) = this() else { return 0 };
    if setting!(switches) != 0 {
        // SAFETY: a checked pointer into this processor's own value; nothing of ours interrupts a switch.
        unsafe { left(cpu) };
    }
    if setting!(run_queue) != 0 {
        // SAFETY: as above.
        unsafe { comes(cpu, ctx.arg::<u64>(2) as Address) };
    }
    0
}

/// # Safety
///
/// As for [`add`].
#[inline(always)]
unsafe fn left(cpu: *mut Cpu) {
    let task = Task::current();
    // SAFETY: the caller's promise.
    unsafe {
        if task.tgid() != 0 {
            add::<{ count::SWITCHES }>(cpu, task);
        } else if in_scope() {
            // A processor that rested is nobody's, and most often comes back to the same process.
            (*cpu).counts[count::SWITCHES] += 1;
            (*cpu).passed_on[count::SWITCHES] += 1;
        }
    }
}

/// The kernel notes when a thread that can run begins to wait, by the run queue's clock, which is just now
/// up to date: so no clock is asked here.
///
/// # Safety
///
/// This processor's own counters.
#[inline(always)]
unsafe fn comes(cpu: *mut Cpu, next: Address) {
    let info = next.wrapping_add(layout!(task_sched_info) as usize);
    let queued: u64 = read(info, layout!(sched_info_last_queued));
    if queued == 0 {
        return;
    }
    let entity = next.wrapping_add(layout!(task_se) as usize);
    let queue = follow(follow(entity, layout!(entity_cfs_rq)), layout!(cfs_rq_rq));
    let now: u64 = read(queue, layout!(rq_clock));
    if now >= queued {
        // SAFETY: the caller's promise.
        unsafe { histogram::add(&raw mut (*cpu).run_queue, now - queued) };
    }
}
