//! A process opened a file, or could not. Told at the end of the system call: then the path is in memory.

use crate::bytes::below;
use crate::kernel::setting;
use crate::ring;
use crate::syscall::Call;
use crate::task::{current_process, header};
use agent_records::trace::{Open, PATH_BYTES, PREFIX_BYTES, call, kind};
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use core::mem::size_of;

/// open(2), what creat(2) stands for.
const CREAT_FLAGS: u64 = 0o1101;

/// A record while it is made: too long for the stack.
#[repr(C)]
pub struct Draft {
    record: Open,
    path: [u8; PATH_BYTES],
}

#[map(name = "open_draft")]
static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);
/// Prefixes of paths that are told, where there are any.
#[map(name = "open_prefixes")]
static PREFIXES: LpmTrie<[u8; PREFIX_BYTES], u8> = LpmTrie::with_max_entries(1, 1);

/// Tells what a call of the family did.
#[inline(always)]
pub fn tell(of: &Call) {
    let Some(draft) = DRAFT.get_ptr_mut(0) else { return };
    let has_prefixes = setting!(has_prefixes) != 0;
    let (path, flags) = match of.call {
        call::OPEN => (of.first(), of.second() & 0xffff_ffff),
        call::CREAT => (of.first(), CREAT_FLAGS),
        call::OPENAT => (of.second(), of.third() & 0xffff_ffff),
        // The first field of what the third argument points to.
        // SAFETY: the helper checks the address.
        _ => (of.second(), unsafe { bpf_probe_read_user(of.third() as *const u64) }.unwrap_or(0)),
    };
    // SAFETY: a checked pointer into this CPU's own value; the helpers check the addresses that they read
    // from, and the verifier the lengths.
    unsafe {
        let to = (&raw mut (*draft).path).cast();
        let length = bpf_probe_read_user_str(to, PATH_BYTES as u32, path as *const _);
        // The zero at the end counts.
        let path_bytes = below::<PATH_BYTES>(if length > 0 { length as usize - 1 } else { 0 });
        if has_prefixes {
            let compared = if path_bytes > PREFIX_BYTES { PREFIX_BYTES } else { path_bytes };
            (*draft).record.prefix_bits = 8 * compared as u32;
            let key = (&raw const (*draft).record.prefix_bits).cast::<Key<[u8; PREFIX_BYTES]>>();
            if PREFIXES.get(&*key).is_none() {
                return;
            }
        }
        (*draft).record = Open {
            header: header(kind::OPEN),
            process: current_process(),
            flags,
            error: if of.result < 0 { -of.result as u32 } else { 0 },
            path_bytes: if length > 0 { path_bytes as u32 } else { u32::MAX },
            zero: 0,
            prefix_bits: 0,
        };
        ring::submit_bytes(draft.cast(), size_of::<Open>() + path_bytes);
    }
}
