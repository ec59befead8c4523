//! Reads for programs that take zero for what is not there.

use crate::kernel::{self, Address};

/// What lies at an offset from an address; zero where nothing does.
#[inline(always)]
pub fn read<T: Copy + Default>(base: Address, offset: u32) -> T {
    kernel::read(base, offset).unwrap_or_default()
}

/// The address that lies there.
#[inline(always)]
pub fn follow(base: Address, offset: u32) -> Address {
    read::<u64>(base, offset) as Address
}
