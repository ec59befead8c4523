//! The kernel's memory, by what user space found in its BTF, and what user space wants.

use agent_records::counters::{Layout, Settings};
use agent_records::trace::ABSENT;
use aya_ebpf::helpers::bpf_probe_read_kernel;

/// Where this kernel keeps what is read. User space sets it before the programs are loaded, so the
/// verifier sees constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::EMPTY;
/// What is wanted. Likewise.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    scope: 0,
    scope_level: 0,
    by_process: 0,
    by_call: 0,
    switches: 0,
    run_queue: 0,
    tells_last: 0,
};

/// Where a member is.
macro_rules! layout {
    ($field:ident) => {
        // SAFETY: a static of ours; volatile, because user space has set it since.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($crate::kernel::LAYOUT.$field)) }
    };
}

/// What is wanted.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($crate::kernel::SETTINGS.$field)) }
    };
}

pub(crate) use {layout, setting};

/// An address in the kernel's memory, perhaps a wrong one.
pub type Address = *const u8;

/// What lies at an offset from an address; zero where nothing does.
#[inline(always)]
pub fn read<T: Copy + Default>(base: Address, offset: u32) -> T {
    if offset == ABSENT {
        return T::default();
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()) }.unwrap_or_default()
}

/// The address that lies there.
#[inline(always)]
pub fn follow(base: Address, offset: u32) -> Address {
    read::<u64>(base, offset) as Address
}
