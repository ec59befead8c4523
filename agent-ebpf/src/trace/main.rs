//! The tracing programs: each tells what processes do at one tracepoint of the kernel.
//!
//! They own which task is meant and what is right to say of it: whoever acts is the process of the
//! current task only where the tracepoint lies in a system call of that task. They know nothing of
//! events on the wire. All are raw tracepoints, which need neither tracefs nor a privilege beyond BPF's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bpf;
mod bytes;
mod cgroup;
mod cred;
mod exec;
mod exit;
#[path = "../kernel.rs"]
mod kernel;
mod module;
mod oom;
mod open;
#[path = "../or_zero.rs"]
mod or_zero;
mod ptrace;
#[path = "../ring.rs"]
mod ring;
mod signal;
mod syscall;
mod task;

use agent_records::trace as records;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel's licence check knows no Apache-2.0; helpers that are GPL only need a string it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
