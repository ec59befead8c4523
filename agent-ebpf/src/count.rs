//! Counters. Per-CPU ones need no atomics, because a program of the network is not interrupted by itself.

use crate::lookup::{self, Home};
use crate::maps;
use agent_records::lookup::Seen;
use agent_records::{Tally, Totals};
use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

/// This CPU's counters.
#[inline(always)]
pub fn own() -> Option<*mut Totals> {
    maps::TOTALS.get_ptr_mut(Totals::NOW)
}

/// Counts a verdict.
#[inline(always)]
pub fn verdict(totals: *mut Totals, index: usize, size: Tally) {
    // SAFETY: a checked pointer into this CPU's own value.
    add_own(unsafe { &raw mut (*totals).verdicts[index] }, size);
}

/// Counts an IP protocol.
#[inline(always)]
pub fn protocol(totals: *mut Totals, number: u8, size: Tally) {
    // SAFETY: as above.
    add_own(unsafe { &raw mut (*totals).protocols[usize::from(number)] }, size);
}

/// Counts a hit of a rule.
#[inline(always)]
pub fn hit(slot: u32, size: Tally) {
    if let Some(tally) = maps::HITS.get_ptr_mut(slot) {
        add_shared(tally, size);
    }
}

/// Counts a passed connection attempt.
#[inline(always)]
pub fn connection(port: u16) {
    if let Some(count) = maps::CONNECTIONS.get_ptr_mut(u32::from(port)) {
        // SAFETY: a checked pointer into a map's value.
        unsafe { atomic_add(count, 1) };
    }
}

/// Counts a packet at a home that belongs to this CPU.
///
/// # Safety
///
/// `home` points into a map's value.
#[inline(always)]
pub unsafe fn at_home(home: Home, size: Tally) {
    // SAFETY: the caller's promise; no other CPU writes there.
    unsafe {
        let packets = &raw mut (*home.seen).packets;
        let bytes = u64::from(read_volatile(home.bytes)) + size.bytes;
        let sum = u64::from(read_volatile(packets)) + size.packets;
        if (bytes | sum) < Seen::CARRY {
            write_volatile(home.bytes, bytes as u32);
            write_volatile(packets, sum as u32);
            return;
        }
        // Missing here before it is there: whoever reads there first never has too many.
        write_volatile(packets, 0);
        write_volatile(home.bytes, 0);
        if let Some(slot) = lookup::drop_slot(home.number()) {
            hit(slot, Tally { packets: sum, bytes });
        }
    }
}

#[inline(always)]
fn add_own(tally: *mut Tally, size: Tally) {
    // SAFETY: as above.
    unsafe {
        (*tally).packets += size.packets;
        (*tally).bytes += size.bytes;
    }
}

/// Bytes first: whoever reads the packets before the bytes has the bytes of all those packets.
#[inline(always)]
pub fn add_shared(tally: *mut Tally, size: Tally) {
    // SAFETY: a checked pointer into a map's value.
    unsafe {
        atomic_add(&raw mut (*tally).bytes, size.bytes);
        atomic_add(&raw mut (*tally).packets, size.packets);
    }
}

/// Puts a new value in the place of a known one; not where another is there by now.
///
/// # Safety
///
/// `target` points to an aligned value that is valid for writes.
#[inline(always)]
pub unsafe fn replace(target: *mut u64, known: u64, new: u64) -> bool {
    let mut found = known;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({target} + 0, r0, {new})",
            target = in(reg) target, new = in(reg) new, inout("r0") found
        );
    }
    found == known
}

/// Counts an alarm that had no room.
#[inline(always)]
pub fn unalarmed() {
    if let Some(count) = maps::UNALARMED.get_ptr_mut(0) {
        // SAFETY: a checked pointer into a map's value.
        unsafe { atomic_add(count, 1) };
    }
}

/// `core` has no atomics for this target; the instruction has been there since the first eBPF.
///
/// # Safety
///
/// `target` points to an aligned value that is valid for writes.
#[inline(always)]
pub unsafe fn atomic_add(target: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) target, in(reg) value) };
}
