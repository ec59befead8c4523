//! Reading the kernel's own structs, at the places that user space found for this kernel. It knows the
//! members by number and not what they mean.

use agent_records::tcp::member;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use core::ptr::{addr_of, read_volatile};

/// Where each member lies in its struct, bytes. User space sets them.
#[unsafe(no_mangle)]
static OFFSETS: [u32; member::COUNT] = [member::NOWHERE; member::COUNT];

/// A member of a struct; `None` where this kernel has none, or nothing lies there.
#[inline(always)]
pub fn read<T>(base: *const u8, member: usize) -> Option<T> {
    // SAFETY: a static of ours, indexed by a constant below its length; volatile, because user space has
    // set it since.
    let offset = unsafe { read_volatile(addr_of!(OFFSETS).cast::<u32>().add(member)) };
    if offset == member::NOWHERE {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

/// What a member points to.
#[inline(always)]
pub fn follow(base: *const u8, member: usize) -> Option<*const u8> {
    let address: u64 = read(base, member)?;
    (address != 0).then_some(address as *const u8)
}
