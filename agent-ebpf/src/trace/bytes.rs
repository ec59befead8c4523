//! Strings of unknown length, copied so that the verifier can follow.

use core::arch::asm;

/// The length as one that the verifier knows to be below `LIMIT`, a power of two.
#[inline(always)]
pub fn below<const LIMIT: usize>(length: usize) -> usize {
    let mut length = length;
    // The compiler knows better than the verifier that nothing is masked away, and would not do it.
    // SAFETY: one instruction, on a register of its own.
    unsafe { asm!("{0} &= {1}", inout(reg) length, const LIMIT - 1) };
    length
}
