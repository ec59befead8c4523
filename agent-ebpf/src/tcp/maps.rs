//! What is remembered between two moments of a connection.
//!
//! The tables have room for so many and no more; what finds none is counted, and then less is known. An
//! element is only removed by the end of what it is about, so nothing leaves early or stays.

use crate::kernel::setting;
use crate::ring;
use agent_records::tcp::{Connection, MAX_CALLS, MAX_CONNECTIONS, MAX_PENDING, Record};
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use core::arch::asm;

/// Connections, by the cookie of their socket.
#[map(name = "connections")]
pub static CONNECTIONS: HashMap<u64, Connection> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);
/// Accepted by the kernel, not by a process yet, and not told: whoever removes one tells it.
#[map(name = "pending")]
pub static PENDING: HashMap<u64, Record> =
    HashMap::with_max_entries(MAX_PENDING, BPF_F_NO_PREALLOC);
/// Threads in connect(2), by their address.
#[map(name = "calls")]
pub static CALLS: HashMap<u64, Call> = HashMap::with_max_entries(MAX_CALLS, BPF_F_NO_PREALLOC);
/// How many connections and calls found no room.
#[map(name = "untracked")]
static UNTRACKED: Array<u64> = Array::with_max_entries(1, 0);

/// A call of connect(2).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// Address of the sock.
    pub sock: u64,
    /// As in [`Record`].
    pub remote: [u8; 16],
    pub remote_port: u16,
    /// The end of the call tells whether it failed: nobody else did or will.
    pub untold: u16,
    pub zero: u32,
}

#[inline(always)]
pub fn wants(kind: u8) -> bool {
    setting!(kinds) & 1 << kind != 0
}

/// Tells an event, if its kind is wanted.
#[inline(always)]
pub fn tell(record: &Record) {
    if wants(record.kind) {
        ring::submit(record);
    }
}

/// What is remembered of a connection.
#[inline(always)]
pub fn connection(cookie: u64) -> Option<Connection> {
    let found = CONNECTIONS.get_ptr(cookie)?;
    // SAFETY: a checked pointer into a map's value; the copy is only good if the next look finds the same.
    let copy = unsafe { *found };
    // accept(2) puts another element in its place, and the old one's memory may be used again at once.
    (CONNECTIONS.get_ptr(cookie)? == found).then_some(copy)
}

#[inline(always)]
pub fn count_untracked() {
    if let Some(count) = UNTRACKED.get_ptr_mut(0) {
        // `core` has no atomics for this target.
        // SAFETY: a checked pointer into a map's value.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
}
