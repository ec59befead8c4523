//! System calls, which the current task makes: the one place where who acts is certain. Both programs
//! run at every call of every process, so what is not wanted ends after a few instructions.

use crate::kernel::{Address, layout};
use crate::or_zero::read;
use crate::task::{Task, current_in_scope};
use crate::{bpf, cred, open, ptrace};
use agent_records::trace::{CALLS, call};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use core::ptr::{addr_of, read_volatile};

/// `TS_COMPAT`, asm/thread_info.h: the call came by the 32-bit table.
const COMPAT: u32 = 2;
/// linux/errno.h: such a call was interrupted, and is made again.
const RESTARTS: core::ops::RangeInclusive<i64> = -516..=-512;

/// What each number is to us, [`call`]. User space sets it, by what is wanted.
#[unsafe(no_mangle)]
static SYSCALLS: [u8; CALLS] = [0; CALLS];

/// A call that ended.
pub struct Call {
    pub call: u8,
    pub result: i64,
    regs: Address,
}

impl Call {
    #[inline(always)]
    pub fn first(&self) -> u64 {
        read(self.regs, layout!(regs_first))
    }

    #[inline(always)]
    pub fn second(&self) -> u64 {
        read(self.regs, layout!(regs_second))
    }

    #[inline(always)]
    pub fn third(&self) -> u64 {
        read(self.regs, layout!(regs_third))
    }
}

/// `sys_enter(regs, number)`
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if of(ctx.arg(1)) == call::CRED && !is_compat() && current_in_scope() {
        cred::note();
    }
    0
}

/// `sys_exit(regs, result)`
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let regs = ctx.arg::<u64>(0) as Address;
    let which = of(read(regs, layout!(regs_call)));
    if which == call::OTHER || is_compat() || !current_in_scope() {
        return 0;
    }
    let ended = Call { call: which, result: ctx.arg::<u64>(1) as i64, regs };
    if RESTARTS.contains(&ended.result) {
        return 0;
    }
    match which {
        call::CRED => cred::tell(),
        call::BPF => bpf::tell(&ended),
        call::PTRACE => ptrace::tell(&ended),
        _ => open::tell(&ended),
    }
    0
}

#[inline(always)]
fn of(number: u64) -> u8 {
    if number < CALLS as u64 {
        // SAFETY: within the array; volatile, because user space has set it since.
        unsafe { read_volatile(addr_of!(SYSCALLS).cast::<u8>().add(number as usize)) }
    } else {
        call::OTHER
    }
}

/// Numbers of the 32-bit table mean other calls.
#[inline(always)]
fn is_compat() -> bool {
    let info = Task::current().0.wrapping_add(layout!(task_thread_info) as usize);
    read::<u32>(info, layout!(thread_info_status)) & COMPAT != 0
}
