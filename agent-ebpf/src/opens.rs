//! A plain program on the same tracepoint, as the examples of libbpf have it: a record of fixed size for
//! each openat(2), and a reader that is woken every 64 KiB, or for each record. Only the benchmarks use
//! it, to tell what ours cost beside it.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_probe_read_user_str,
};
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_probe_read_kernel,
};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use core::mem::size_of;
use core::ptr::{addr_of, read_volatile};

const OPENAT: u64 = 257;
/// x86-64: `pt_regs`, bytes.
const REGS_NUMBER: usize = 120;
const REGS_SECOND: usize = 104;
const REGS_THIRD: usize = 96;
const PATH_BYTES: usize = 64;

#[map(name = "ring")]
static RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Records that found no room.
#[map(name = "lost")]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Waiting bytes that wake the reader; user space sets it, and the place of the parent in a task and of
/// the process's number in it.
#[unsafe(no_mangle)]
static PLAIN: [u64; 3] = [0; 3];

/// One opened file.
#[repr(C)]
struct Record {
    boot_ns: u64,
    cgroup: u64,
    pid: u32,
    ppid: u32,
    uid: u32,
    flags: u32,
    result: i64,
    comm: [u8; 16],
    path: [u8; PATH_BYTES],
}

/// Does nothing: what being called at all costs.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn empty(_ctx: RawTracePointContext) -> i32 {
    0
}

/// Puts a record into the ring.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn batched(ctx: RawTracePointContext) -> i32 {
    let regs = ctx.arg::<u64>(0) as *const u8;
    if word(regs, REGS_NUMBER) != OPENAT {
        return 0;
    }
    let Some(mut record) = RING.reserve_bytes(size_of::<Record>(), 0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: a checked pointer into this CPU's own value.
            unsafe { *lost += 1 };
        }
        return 0;
    };
    let both = bpf_get_current_pid_tgid();
    // SAFETY: as long as a record and aligned for one; the helpers check the addresses they read from.
    unsafe {
        let to = record.as_mut_ptr().cast::<Record>();
        let parent = word(bpf_get_current_task() as *const u8, plain(1));
        (*to).boot_ns = bpf_ktime_get_boot_ns();
        (*to).cgroup = bpf_get_current_cgroup_id();
        (*to).pid = (both >> 32) as u32;
        (*to).ppid = word(parent as *const u8, plain(2)) as u32;
        (*to).uid = bpf_get_current_uid_gid() as u32;
        (*to).flags = word(regs, REGS_THIRD) as u32;
        (*to).result = ctx.arg::<u64>(1) as i64;
        (*to).comm = bpf_get_current_comm().unwrap_or_default();
        let path = word(regs, REGS_SECOND) as *const _;
        bpf_probe_read_user_str((&raw mut (*to).path).cast(), PATH_BYTES as u32, path);
    }
    let waits = RING.query(u64::from(BPF_RB_AVAIL_DATA));
    let wakes = waits >= plain(0) as u64;
    record.submit(u64::from(if wakes { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    0
}

fn plain(at: usize) -> usize {
    // SAFETY: a static of ours; volatile, because user space has set it since.
    unsafe { read_volatile(addr_of!(PLAIN).cast::<u64>().add(at)) as usize }
}

#[inline(always)]
fn word(base: *const u8, offset: usize) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast()) }.unwrap_or_default()
}

/// The helpers above are for programs under the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
