//! System calls: in all, by number, and by process. The program runs at every call of every process.

use crate::cpu::{enter, this};
use crate::kernel::setting;
use crate::task::Task;
use agent_records::counters::{CALLS, Cpu, count};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// `sys_enter(regs, number)`
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if let Some(cpu) = this() {
        let task = Task::current();
        // SAFETY: a checked pointer into this processor's own value, and nothing of ours interrupts what
        // serves a system call.
        unsafe {
            if enter(cpu, task) {
                (*cpu).counts[count::SYSCALLS] += 1;
                if setting!(by_call) != 0 {
                    by_number(cpu, task, ctx.arg(1));
                }
            }
        }
    }
    0
}

/// # Safety
///
/// The processor's own counters.
#[inline(always)]
unsafe fn by_number(cpu: *mut Cpu, task: Task, number: u64) {
    // SAFETY: the caller's promise; within the arrays.
    unsafe {
        if number >= CALLS as u64 {
            (*cpu).other_calls += 1;
        } else if task.is_compat() {
            *(&raw mut (*cpu).compat_calls).cast::<u64>().add(number as usize) += 1;
        } else {
            *(&raw mut (*cpu).calls).cast::<u64>().add(number as usize) += 1;
        }
    }
}
