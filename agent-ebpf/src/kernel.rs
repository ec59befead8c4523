//! The kernel's memory, by what user space found in its BTF, and what user space wants: shared by the
//! programs, each with the layout and the settings of its `records`.

use crate::records::{Layout, Settings};
use agent_records::trace::ABSENT;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use core::ptr::read_volatile;

/// Where this kernel keeps what is read. User space sets it before the programs are loaded, so the
/// verifier sees constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::EMPTY;
/// What is wanted. Likewise.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings::EMPTY;

/// Where a member is.
macro_rules! layout {
    ($field:ident) => {
        $crate::kernel::set(&$crate::kernel::LAYOUT.$field)
    };
}

/// What is wanted.
macro_rules! setting {
    ($field:ident) => {
        $crate::kernel::set(&$crate::kernel::SETTINGS.$field)
    };
}

pub(crate) use {layout, setting};

/// What user space has set a static of ours to.
#[inline(always)]
pub fn set<T: Copy>(field: &'static T) -> T {
    // SAFETY: a reference; volatile, because the compiler must not take the value that is written here.
    unsafe { read_volatile(field) }
}

/// An address in the kernel's memory, perhaps a wrong one.
pub type Address = *const u8;

/// What lies at an offset from an address; `None` where nothing does, or this kernel has no such member.
#[inline(always)]
pub fn read<T: Copy>(base: Address, offset: u32) -> Option<T> {
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()) }.ok()
}
