//! A process runs another program. The tracepoint lies in the system call, after the change.

use crate::bytes::below;
use crate::kernel::layout;
use crate::or_zero::{follow, read};
use crate::ring;
use crate::task::{Task, current_in_scope, current_process, header};
use agent_records::trace::{ARGS_BYTES, Exec, PATH_BYTES, kind};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::RawTracePointContext;
use core::mem::size_of;

/// A record while it is made: too long for the stack.
#[repr(C)]
pub struct Draft {
    record: Exec,
    strings: [u8; PATH_BYTES + ARGS_BYTES],
}

#[map(name = "exec_draft")]
static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// `sched_process_exec(task, old pid, binprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec(ctx: RawTracePointContext) -> i32 {
    if current_in_scope()
        && let Some(draft) = DRAFT.get_ptr_mut(0)
    {
        let binprm: u64 = ctx.arg(2);
        // SAFETY: a checked pointer into this CPU's own value.
        unsafe { tell(draft, binprm as *const u8) };
    }
    0
}

/// # Safety
///
/// The draft is ours alone.
#[inline(always)]
unsafe fn tell(draft: *mut Draft, binprm: *const u8) {
    let task = Task::current();
    let mm = follow(task.0, layout!(task_mm));
    let start: u64 = read(mm, layout!(mm_arg_start));
    let whole = read::<u64>(mm, layout!(mm_arg_end)).wrapping_sub(start);
    let path = follow(binprm, layout!(binprm_filename));
    // SAFETY: the caller's promise; the helpers check the addresses that they read from, and the
    // verifier the lengths.
    unsafe {
        let strings = (&raw mut (*draft).strings).cast::<u8>();
        let length = bpf_probe_read_kernel_str(strings.cast(), PATH_BYTES as u32, path.cast());
        // The zero at the end counts.
        let path_bytes = below::<PATH_BYTES>(if length > 0 { length as usize - 1 } else { 0 });
        let wanted = if whole >= ARGS_BYTES as u64 { ARGS_BYTES - 1 } else { whole as usize };
        let mut args_bytes = below::<ARGS_BYTES>(wanted);
        let args = strings.add(path_bytes).cast();
        if bpf_probe_read_user(args, args_bytes as u32, start as *const _) != 0 {
            args_bytes = 0;
        }
        (*draft).record = Exec {
            header: header(kind::EXEC),
            process: current_process(),
            parent_comm: task.leader().parent().leader().comm(),
            path_bytes: path_bytes as u32,
            args_bytes: args_bytes as u32,
            args_whole_bytes: whole as u32,
            zero: 0,
        };
        let bytes = size_of::<Exec>() + path_bytes + below::<ARGS_BYTES>(args_bytes);
        ring::submit_bytes(draft.cast(), bytes);
    }
}
