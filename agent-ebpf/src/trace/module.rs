//! A kernel module is loaded or unloaded, in a system call of whoever wants it.

use crate::kernel::{Address, layout};
use crate::or_zero::read;
use crate::ring;
use crate::task::{current_in_scope, current_process, header};
use agent_records::trace::{Module, kind};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

/// `module_load(module)`: before its own code runs; if that fails, it is unloaded again.
#[raw_tracepoint(tracepoint = "module_load")]
pub fn module_load(ctx: RawTracePointContext) -> i32 {
    tell(&ctx, 1);
    0
}

/// `module_free(module)`
#[raw_tracepoint(tracepoint = "module_free")]
pub fn module_free(ctx: RawTracePointContext) -> i32 {
    tell(&ctx, 0);
    0
}

#[inline(always)]
fn tell(ctx: &RawTracePointContext, loaded: u32) {
    if !current_in_scope() {
        return;
    }
    let module = ctx.arg::<u64>(0) as Address;
    let mut name = [0; 56];
    let words: [u64; 7] = read(module, layout!(module_name));
    for (to, word) in name.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    let (header, process) = (header(kind::MODULE), current_process());
    ring::submit(&Module { header, process, name, loaded, zero: 0 });
}
