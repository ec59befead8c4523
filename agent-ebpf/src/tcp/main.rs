//! TCP connections: who made them and to where, who accepted them, and what they carried.
//!
//! A `sock_ops` program tells what becomes of a connection: it runs for every socket of the scope's
//! cgroup under that socket's lock, and unlike a tracepoint's program it is never left out because an
//! interrupt finds it running. It runs in the caller's task only on connect, so only there it takes the
//! process; that of an accepted connection comes from where accept(2) returns. It changes nothing: no
//! reply, and of the callbacks it only adds its own.
//!
//! It knows nothing of names, cgroups' paths or who reads the records.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod call;
mod connection;
mod follow;
#[path = "../kernel.rs"]
mod kernel;
mod maps;
mod owner;
#[path = "../ring.rs"]
mod ring;

use agent_records::tcp as records;
use aya_ebpf::macros::{raw_tracepoint, sock_ops, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, SockOpsContext, TracePointContext};

/// What becomes of a connection.
#[sock_ops]
pub fn tcp_connection(context: SockOpsContext) -> u32 {
    connection::called(&context);
    // Anything else would be a refusal.
    1
}

/// `sys_enter_connect`: what follows is the number, the descriptor and the address.
#[tracepoint]
pub fn tcp_connect_enter(context: TracePointContext) -> u32 {
    if let (Some(descriptor), Some(address)) = (word(&context, 16), word(&context, 24)) {
        call::connect_begins(descriptor, address);
    }
    0
}

/// `sys_exit_connect`: what follows is the number and the result.
#[tracepoint]
pub fn tcp_connect_exit(context: TracePointContext) -> u32 {
    if let Some(result) = word(&context, 16) {
        call::connect_ends(result as i64);
    }
    0
}

/// `sys_exit_accept` and `sys_exit_accept4`: likewise.
#[tracepoint]
pub fn tcp_accept_exit(context: TracePointContext) -> u32 {
    if let Some(result) = word(&context, 16) {
        call::accept_ends(result as i64);
    }
    0
}

#[inline(always)]
fn word(context: &TracePointContext, place: usize) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { context.read_at(place) }.ok()
}

// The same for all calls at once, where the tracepoints of single calls can't be had.

/// `sys_enter(regs, number)`
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn tcp_sys_enter(context: RawTracePointContext) -> i32 {
    call::begins(context.arg::<u64>(0) as kernel::Address, context.arg(1));
    0
}

/// `sys_exit(regs, result)`
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn tcp_sys_exit(context: RawTracePointContext) -> i32 {
    call::ends(context.arg::<u64>(0) as kernel::Address, context.arg::<u64>(1) as i64);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel's licence check knows no Apache-2.0; helpers that are GPL only need a string it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
