//! A signal is generated. The current task sent it only where the signal says that a process did; else
//! it is whoever happened to run.

use crate::kernel::Address;
use crate::or_zero::read;
use crate::ring;
use crate::task::{Task, current_process, header};
use agent_records::trace::{Process, Signal, kind};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// In place of an address: the kernel sends it, as if a user did, or as itself. linux/signal.h
const NO_INFO: u64 = 0;
const PRIVATE_INFO: u64 = 1;
/// `struct kernel_siginfo` begins with its number, an error number, and this, as sigaction(2) has it.
const CODE_OFFSET: u32 = 8;
/// sigaction(2): kill(2), sigqueue(3), tgkill(2); and the kernel itself.
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;
const SI_KERNEL: i32 = 0x80;
const NOBODY: Process = Process { cgroup: 0, pid: 0, ppid: 0, uid: 0, zero: 0, comm: [0; 16] };

/// `signal_generate(signal, info, task, group, result)`
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal(ctx: RawTracePointContext) -> i32 {
    let info: u64 = ctx.arg(1);
    let code = match info {
        NO_INFO => SI_USER,
        PRIVATE_INFO => SI_KERNEL,
        address => read(address as Address, CODE_OFFSET),
    };
    let by_process = info > PRIVATE_INFO && matches!(code, SI_USER | SI_QUEUE | SI_TKILL);
    let target = Task(ctx.arg::<u64>(2) as Address);
    if target.in_scope() || (by_process && Task::current().in_scope()) {
        ring::submit(&Signal {
            header: header(kind::SIGNAL),
            process: if by_process { current_process() } else { NOBODY },
            target: target.process(),
            signal: ctx.arg::<u64>(0) as u32,
            code,
            result: ctx.arg::<u64>(4) as u32,
            zero: 0,
        });
    }
    0
}
