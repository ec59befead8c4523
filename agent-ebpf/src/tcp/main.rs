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
mod kernel;
mod maps;
mod owner;
#[path = "../ring.rs"]
mod ring;

use aya_ebpf::macros::{sock_ops, tracepoint};
use aya_ebpf::programs::{SockOpsContext, TracePointContext};

/// What becomes of a connection.
#[sock_ops]
pub fn tcp_connection(context: SockOpsContext) -> u32 {
    connection::called(&context);
    // Anything else would be a refusal.
    1
}

/// Begin of connect(2).
#[tracepoint]
pub fn tcp_connect_enter(context: TracePointContext) -> u32 {
    call::connect_begins(&context);
    0
}

/// End of connect(2).
#[tracepoint]
pub fn tcp_connect_exit(context: TracePointContext) -> u32 {
    call::connect_ends(&context);
    0
}

/// End of accept(2) and accept4(2).
#[tracepoint]
pub fn tcp_accept_exit(context: TracePointContext) -> u32 {
    call::accept_ends(&context);
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
