//! A process ends: its last thread does, and it leaves the table.

use crate::cpu::leave;
use crate::kernel::setting;
use crate::task::Task;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// `sched_process_exit(task, last)`; older kernels have no `last`. The task is the one that runs.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit(ctx: RawTracePointContext) -> i32 {
    let task = Task::current();
    let is_last =
        if setting!(tells_last) != 0 { ctx.arg::<u64>(1) as u8 != 0 } else { task.live() == 0 };
    if is_last {
        leave(task);
    }
    0
}
