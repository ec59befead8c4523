//! The counting programs: each adds to counters of the processor that it runs on, and tells nobody.
//!
//! They own what a count belongs to: a process, all its threads together. They know nothing of rates. All
//! are raw tracepoints, which need neither tracefs nor a privilege beyond BPF's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod block;
mod cpu;
mod exit;
mod faults;
mod histogram;
#[path = "../kernel.rs"]
mod kernel;
#[path = "../or_zero.rs"]
mod or_zero;
mod switches;
mod syscalls;
mod task;

use agent_records::counters as records;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel's licence check knows no Apache-2.0; helpers that are GPL only need a string it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
