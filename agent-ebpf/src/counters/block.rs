//! Requests to block devices that end: the kernel notes in each when it began.

use crate::cpu::this;
use crate::histogram;
use crate::kernel::{Address, layout};
use crate::or_zero::read;
use agent_records::counters::request;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// Of `cmd_flags`: what is asked for, linux/blk_types.h
const OPERATION: u32 = 0xff;
const READ: u32 = 0;
const WRITE: u32 = 1;

/// `block_rq_complete(request, error, bytes)`
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_rq_complete(ctx: RawTracePointContext) -> i32 {
    let asked = ctx.arg::<u64>(0) as Address;
    let started: u64 = read(asked, layout!(request_start_time_ns));
    let rest: u32 = read(asked, layout!(request_data_len));
    // Part of one may end first. Who has no time began while nobody wanted it.
    if started == 0 || (ctx.arg::<u64>(2) as u32) < rest {
        return 0;
    }
    let operation = read::<u32>(asked, layout!(request_cmd_flags)) & OPERATION;
    if operation == WRITE && is_yet_to_be_flushed(asked) {
        return 0;
    }
    let Some(cpu) = this() else { return 0 };
    // SAFETY: takes nothing.
    let took = unsafe { bpf_ktime_get_ns() }.saturating_sub(started);
    // SAFETY: a checked pointer into this processor's own value, and only this program writes these.
    unsafe {
        match operation {
            READ => histogram::add(&raw mut (*cpu).block[request::READ], took),
            WRITE => histogram::add(&raw mut (*cpu).block[request::WRITE], took),
            _ => histogram::add(&raw mut (*cpu).block[request::OTHER], took),
        }
    }
    0
}

/// Whether a write ends only for the kernel's own sequence of writes and flushes, and will end again when
/// that is through, block/blk-flush.c: the sequence has put an end of its own into it. Who else does that
/// to a write, as request-based device mapper, hangs its own data on it too.
#[inline(always)]
fn is_yet_to_be_flushed(asked: Address) -> bool {
    let end: u64 = read(asked, layout!(request_end_io));
    let data: u64 = read(asked, layout!(request_end_io_data));
    end != 0 && data == 0
}
