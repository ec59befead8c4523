//! The ring of events: records go in here, and the reader is woken no more often than it needs.
//!
//! Waking a reader costs more than ten times a record. So a reader says what it does: awake or napping
//! it comes by itself, and only asleep it must be woken, by the first record. It knows nothing of what
//! is in a record.

use agent_records::ring::{ASLEEP, AWAKE, NAPPING, RingState};
use aya_ebpf::bindings::{
    BPF_F_MMAPABLE, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use core::arch::asm;
use core::mem::size_of;
use core::ptr::{addr_of, from_ref, read_volatile, write_volatile};
use core::slice::from_raw_parts;

/// The records. User space sets the size.
#[map(name = "ring")]
pub static RING: RingBuf = RingBuf::with_byte_size(4_096, 0);
/// Mapped by the reader.
#[map(name = "ring_state")]
pub static STATE: Array<RingState> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// From so many waiting bytes on a nap ends. User space sets it, with the size.
#[unsafe(no_mangle)]
static WAKE_BYTES: u64 = 0;

/// Puts a record in, or counts it as lost.
#[inline(always)]
pub fn submit<T>(record: &T) {
    // SAFETY: a whole record, which the caller made without padding.
    unsafe { submit_bytes(from_ref(record).cast(), size_of::<T>()) };
}

/// Puts a record of some length in, or counts it as lost.
///
/// # Safety
///
/// The bytes are initialized, and the verifier can see that they are.
#[inline(always)]
pub unsafe fn submit_bytes(record: *const u8, length: usize) {
    let Some(state) = STATE.get_ptr_mut(0) else { return };
    let wake = wanted(state);
    let flags = if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    // SAFETY: the caller's promise.
    let bytes = unsafe { from_raw_parts(record, length) };
    if RING.output::<[u8]>(bytes, u64::from(flags)).is_err() {
        // SAFETY: a checked pointer into a map's value.
        unsafe { count(&raw mut (*state).lost) };
    } else if wake {
        // Once is enough: it comes, and says again what it does.
        // SAFETY: as above.
        unsafe { write_volatile(&raw mut (*state).reader, AWAKE) };
    } else if reader(state) == ASLEEP {
        // It fell asleep after we had looked and before the record was there. Committing a record is a
        // full barrier, so either the reader saw it or we see that it sleeps.
        poke();
    }
}

/// Whether the reader must be told of the next record.
#[inline(always)]
fn wanted(state: *mut RingState) -> bool {
    match reader(state) {
        ASLEEP => true,
        NAPPING => {
            // SAFETY: a static of ours; volatile, because user space has set it since.
            RING.query(u64::from(BPF_RB_AVAIL_DATA))
                >= unsafe { read_volatile(addr_of!(WAKE_BYTES)) }
        }
        _ => false,
    }
}

#[inline(always)]
fn reader(state: *mut RingState) -> u32 {
    // SAFETY: a checked pointer into a map's value; volatile, because the reader writes it.
    unsafe { read_volatile(&raw const (*state).reader) }
}

/// Wakes the reader with a record that it will not see.
#[inline(always)]
fn poke() {
    if let Some(nothing) = RING.reserve_bytes(8, 0) {
        nothing.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// `core` has no atomics for this target.
///
/// # Safety
///
/// `target` points to an aligned value that is valid for writes.
#[inline(always)]
unsafe fn count(target: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) target, in(reg) 1_u64) };
}
