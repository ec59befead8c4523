//! Who has a place in the tables of detection: sets of a few places each, where the one that did the least
//! makes room. It must not know what is kept there.

use agent_records::detect::{Head, WAYS};
use core::arch::asm;

/// The place of a key in its set, and whether it has it. `stale` is how long a place is kept at least.
#[inline(always)]
pub fn place(head: &Head, print: u64, now: u32, stale: u32) -> (usize, bool) {
    let (mut victim, mut least) = (0, u64::MAX);
    for way in 0..WAYS {
        if head.prints[way] == print {
            return (bounded(way), true);
        }
        let age = now.wrapping_sub(head.seen[way]);
        // What is over goes first, the oldest of it at the very first; else who did the least.
        let worth =
            if age >= stale { u64::from(!age) } else { 1 << 32 | u64::from(head.weights[way]) };
        // Among equals by lot: the newest would always make room for the next.
        let worth = worth << 2 | (way as u64 ^ print >> 1 & 3);
        if worth < least {
            (victim, least) = (way, worth);
        }
    }
    (bounded(victim), false)
}

/// Forgets how a place was found: the verifier would go on separately for each.
#[inline(always)]
fn bounded(way: usize) -> usize {
    let mut way = way;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} &= 3", inout(reg) way) };
    way & 3
}

/// Gives a place to a key.
///
/// # Safety
///
/// `head` points into a map's value.
#[inline(always)]
pub unsafe fn take(head: *mut Head, way: usize, print: u64, now: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*head).prints[way] = print;
        (*head).seen[way] = now;
        (*head).weights[way] = 1;
    }
}

/// Another attempt of who has a place.
///
/// # Safety
///
/// `head` points into a map's value.
#[inline(always)]
pub unsafe fn again(head: *mut Head, way: usize, now: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*head).seen[way] = now;
        (*head).weights[way] = (*head).weights[way].saturating_add(1);
    }
}
