//! Page faults, as the processor raises them.

use crate::cpu::{add, this};
use crate::task::Task;
use agent_records::counters::count;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// `page_fault_user(address, regs, error code)`
#[raw_tracepoint(tracepoint = "page_fault_user")]
pub fn page_fault_user(_ctx: RawTracePointContext) -> i32 {
    if let Some(cpu) = this() {
        // SAFETY: a checked pointer into this processor's own value; our programs cause no page faults.
        unsafe { add::<{ count::USER_FAULTS }>(cpu, Task::current()) };
    }
    0
}

/// `page_fault_kernel(address, regs, error code)`
#[raw_tracepoint(tracepoint = "page_fault_kernel")]
pub fn page_fault_kernel(_ctx: RawTracePointContext) -> i32 {
    if let Some(cpu) = this() {
        // SAFETY: as above.
        unsafe { add::<{ count::KERNEL_FAULTS }>(cpu, Task::current()) };
    }
    0
}
