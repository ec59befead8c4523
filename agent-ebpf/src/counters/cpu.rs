//! Whose counts the processor's are, and the table of processes.
//!
//! A count goes to its processor alone. What came since the last change of the process is the process's:
//! it is passed on to the table when the processor counts for another one, or when user space is about to
//! read. So a count costs one addition, a change two looks into the table, and the sums are exact.

use crate::kernel::setting;
use crate::task::{Task, in_scope};
use agent_records::counters::{ASK_ANEW, Cpu, PROCESSES, Process, count};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use core::arch::asm;
use core::ptr::write_volatile;

/// `BPF_NOEXIST`
const ONLY_NEW: u64 = 1;

#[map(name = "counters")]
static CPU: PerCpuArray<Cpu> = PerCpuArray::with_max_entries(1, 0);
/// By number. User space sets the size. The least recent ones go when it is full.
#[map(name = "processes")]
static PROCESSES_BY_TGID: LruHashMap<u32, Process> = LruHashMap::with_max_entries(PROCESSES, 0);

/// The counters of this processor.
#[inline(always)]
pub fn this() -> Option<*mut Cpu> {
    CPU.get_ptr_mut(0)
}

/// Makes the current process the one that counts; whether its counts are wanted.
///
/// # Safety
///
/// The processor's own counters, in a program that no other one of ours but `pass_on` interrupts.
#[inline(always)]
pub unsafe fn enter(cpu: *mut Cpu, task: Task) -> bool {
    let tgid = task.tgid();
    // SAFETY: the caller's promise.
    unsafe {
        // Who is not in scope may be moved into it with the next call.
        if (*cpu).tgid != tgid || (*cpu).in_scope == 0 {
            change(cpu, task, tgid);
        }
        (*cpu).in_scope != 0
    }
}

/// Adds one to the current process's counts.
///
/// # Safety
///
/// As for [`enter`].
#[inline(always)]
pub unsafe fn add<const COUNT: usize>(cpu: *mut Cpu, task: Task) {
    // SAFETY: the caller's promise.
    unsafe {
        if enter(cpu, task) {
            (*cpu).counts[COUNT] += 1;
        }
    }
}

/// A function of its own: what it needs of stack and registers would make every count dearer.
///
/// # Safety
///
/// As for [`enter`].
#[inline(never)]
unsafe fn change(cpu: *mut Cpu, task: Task, tgid: u32) {
    let by_process = setting!(by_process) != 0;
    // SAFETY: the caller's promise; volatile, because user space's program may come in between.
    unsafe {
        write_volatile(&raw mut (*cpu).is_passing_on, 1);
        pass_on_counts(cpu);
        (*cpu).in_scope = in_scope().into();
        (*cpu).tgid = tgid;
        (*cpu).owner = if (*cpu).in_scope != 0 { tgid } else { 0 };
        // What ends must not come again after it was taken out.
        if by_process
            && (*cpu).in_scope != 0
            && PROCESSES_BY_TGID.get_ptr_mut(&tgid).is_none()
            && !task.is_exiting()
        {
            let start_boot_ns = task.start_boot_ns();
            let process = Process { start_boot_ns, counts: [0; count::ALL] };
            if PROCESSES_BY_TGID.insert(&tgid, &process, ONLY_NEW).is_ok() {
                (*cpu).came += 1;
            }
        }
        write_volatile(&raw mut (*cpu).is_passing_on, 0);
    }
}

/// Gives the process what the processor counted for it. One that is not in the table has ended, or had
/// to go from it, and its counts are only in the sums.
///
/// # Safety
///
/// As for [`enter`].
#[inline(always)]
unsafe fn pass_on_counts(cpu: *mut Cpu) {
    if setting!(by_process) == 0 {
        return;
    }
    // SAFETY: the caller's promise, and a checked pointer into a map's value.
    unsafe {
        let owner = (*cpu).owner;
        if owner != 0
            && let Some(process) = PROCESSES_BY_TGID.get_ptr_mut(&owner)
        {
            pass::<{ count::SYSCALLS }>(cpu, process);
            pass::<{ count::USER_FAULTS }>(cpu, process);
            pass::<{ count::KERNEL_FAULTS }>(cpu, process);
            pass::<{ count::SWITCHES }>(cpu, process);
        }
        (*cpu).passed_on = (*cpu).counts;
    }
}

/// # Safety
///
/// As for [`enter`]; the process is valid.
#[inline(always)]
unsafe fn pass<const COUNT: usize>(cpu: *mut Cpu, process: *mut Process) {
    // SAFETY: the caller's promise.
    unsafe {
        let more = (*cpu).counts[COUNT].wrapping_sub((*cpu).passed_on[COUNT]);
        if more != 0 {
            // Other processors do the same. `core` has no atomics for this target.
            let sum = &raw mut (*process).counts[COUNT];
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) sum, in(reg) more);
        }
    }
}

/// Takes the current process out of the table.
#[inline(always)]
pub fn leave(task: Task) {
    let tgid = task.tgid();
    if PROCESSES_BY_TGID.remove(&tgid).is_ok()
        && let Some(cpu) = this()
    {
        // SAFETY: a checked pointer into this processor's own value.
        unsafe { (*cpu).went += 1 };
    }
}

/// For user space, which runs it on each processor before it reads: it comes as an interrupt.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn pass_on(_ctx: RawTracePointContext) -> i32 {
    if let Some(cpu) = this() {
        // SAFETY: a checked pointer into this processor's own value; where it interrupts a program that
        // does the same, it leaves it to that.
        unsafe {
            if (*cpu).is_passing_on == 0 {
                pass_on_counts(cpu);
                // Whether the process is in scope is looked up again: it may have been moved out of it.
                write_volatile(&raw mut (*cpu).tgid, ASK_ANEW);
            }
        }
    }
    0
}
