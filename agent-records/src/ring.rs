//! What the two ends of a ring of events share beside the ring itself.

/// The reader is at it, or about to be.
pub const AWAKE: u32 = 0;
/// The reader looks again soon, and needs to hear only of much.
pub const NAPPING: u32 = 1;
/// The reader waits until it hears of a record.
pub const ASLEEP: u32 = 2;

/// State of a ring. Its two halves are written by different sides, so each has a cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingState {
    /// [`AWAKE`], [`NAPPING`] or [`ASLEEP`].
    pub reader: u32,
    /// Always 0.
    pub zero: u32,
    /// How many of the lost ones the reader has told of.
    pub told: u64,
    /// Always 0.
    pub zeros: [u64; 6],
    /// Records that found no room.
    pub lost: u64,
    /// Always 0.
    pub more_zero: [u64; 7],
}
