//! Ways through the kernel's memory, which end where there is nothing.

use crate::kernel::{Address, read};

/// The address that lies there, if there is one.
#[inline(always)]
pub fn follow(base: Address, offset: u32) -> Option<Address> {
    read::<u64>(base, offset).filter(|address| *address != 0).map(|address| address as Address)
}
