//! A task iterator: writes a record for each process that the kernel has. Only the benchmarks use it,
//! to tell what reading /proc costs beside it.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_seq_write;
use core::ffi::c_void;
use core::mem::size_of;
use core::ptr::{addr_of, read_volatile};

/// Where this kernel keeps what is read, in bytes; user space sets it from the kernel's BTF before the
/// program is loaded.
#[repr(C)]
pub struct Offsets {
    task_tgid: u32,
    task_pid: u32,
    task_real_parent: u32,
    task_state: u32,
    task_start_boottime: u32,
    task_cred: u32,
    task_comm: u32,
    task_signal: u32,
    task_mm: u32,
    cred_euid: u32,
    signal_threads: u32,
    mm_total_vm: u32,
    mm_rss_stat: u32,
}

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_tgid: 0,
    task_pid: 0,
    task_real_parent: 0,
    task_state: 0,
    task_start_boottime: 0,
    task_cred: 0,
    task_comm: 0,
    task_signal: 0,
    task_mm: 0,
    cred_euid: 0,
    signal_threads: 0,
    mm_total_vm: 0,
    mm_rss_stat: 0,
};

/// What is told of a process.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    start_boottime_ns: u64,
    vsz_pages: u64,
    rss_stat: u64,
    pid: u32,
    ppid: u32,
    euid: u32,
    state: u32,
    threads: u32,
    comm: [u8; 16],
    _padding: u32,
}

/// `struct bpf_iter__task` of the kernel.
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    task: *const u8,
}

/// `struct bpf_iter_meta`
#[repr(C)]
pub struct Meta {
    seq: *mut aya_ebpf::bindings::seq_file,
}

macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static of ours; volatile, because user space has set it since.
        unsafe { read_volatile(addr_of!(OFFSETS.$field)) }
    };
}

/// What lies at an offset from an address of the kernel; zero where nothing does.
#[inline(always)]
fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast()) }.unwrap_or_default()
}

#[inline(always)]
fn follow(base: *const u8, offset: u32) -> *const u8 {
    read::<u64>(base, offset) as *const u8
}

/// Called for every task, and once more at the end with none.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn tasks(context: *const Context) -> i32 {
    // SAFETY: the kernel's own context; the verifier knows its fields.
    let (meta, task) = unsafe {
        (read_volatile(addr_of!((*context).meta)), read_volatile(addr_of!((*context).task)))
    };
    if task.is_null() {
        return 0;
    }
    let pid = read::<u32>(task, offset!(task_tgid));
    if pid != read::<u32>(task, offset!(task_pid)) {
        return 0;
    }
    let mm = follow(task, offset!(task_mm));
    let record = Record {
        start_boottime_ns: read(task, offset!(task_start_boottime)),
        vsz_pages: read(mm, offset!(mm_total_vm)),
        rss_stat: read(mm, offset!(mm_rss_stat)),
        pid,
        ppid: read(follow(task, offset!(task_real_parent)), offset!(task_tgid)),
        euid: read(follow(task, offset!(task_cred)), offset!(cred_euid)),
        state: read(task, offset!(task_state)),
        threads: read(follow(task, offset!(task_signal)), offset!(signal_threads)),
        comm: read(task, offset!(task_comm)),
        _padding: 0,
    };
    // SAFETY: the record is whole and as long as it says; the kernel gave us the file.
    unsafe {
        let seq = read_volatile(addr_of!((*meta).seq));
        bpf_seq_write(seq, addr_of!(record).cast::<c_void>(), size_of::<Record>() as u32);
    }
    0
}

/// The helpers above are for programs under the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
