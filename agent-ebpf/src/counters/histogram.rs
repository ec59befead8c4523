//! Adding a time to a histogram.

use agent_records::counters::{BUCKETS, Histogram};

/// Adds one that took so long.
///
/// # Safety
///
/// This processor's own.
#[inline(always)]
pub unsafe fn add(histogram: *mut Histogram, ns: u64) {
    let bucket = highest_bit(ns) as usize;
    let bucket = if bucket < BUCKETS { bucket } else { BUCKETS - 1 };
    // SAFETY: within it.
    unsafe { *histogram.cast::<u64>().add(bucket) += 1 };
}

/// Its position; 0 for 0 too.
#[inline(always)]
fn highest_bit(mut value: u64) -> u32 {
    let mut position = 0;
    for bits in [32, 16, 8, 4, 2, 1] {
        if value >> bits != 0 {
            value >>= bits;
            position += bits;
        }
    }
    position
}
