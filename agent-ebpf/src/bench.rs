//! What the filter is measured beside: programs that do less, and programs that look sources up as the
//! kernel's own maps do; and one that makes a source for each run and goes on to the program that is
//! measured. Only the benchmarks use it.
#![no_std]
#![no_main]

mod sources;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use sources::Sources;

#[map]
static SOURCES: Array<Sources> = Array::with_max_entries(1, 0);
/// When each window of 4,096 sources began, nanoseconds.
#[map]
static WINDOWS: Array<u64> = Array::with_max_entries(1024, 0);
#[map]
static FRAGS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static PLAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
static COUNTS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static HASH4: HashMap<[u8; 4], u64> = HashMap::with_max_entries(1, 0);
#[map]
static HASH6: HashMap<[u8; 16], u64> = HashMap::with_max_entries(1, 0);
#[map]
static LPM4: LpmTrie<[u8; 4], u64> = LpmTrie::with_max_entries(1, 1);
#[map]
static LPM6: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(1, 1);

/// Goes on to a program for frames of any size.
#[xdp(frags)]
pub fn source_frags(ctx: XdpContext) -> u32 {
    make(&ctx);
    // SAFETY: the context is this program's own.
    let _ = unsafe { FRAGS.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// Goes on to a program for frames of one buffer.
#[xdp]
pub fn source_plain(ctx: XdpContext) -> u32 {
    make(&ctx);
    // SAFETY: the context is this program's own.
    let _ = unsafe { PLAIN.tail_call(&ctx, 0) };
    XDP_ABORTED
}

#[inline(always)]
fn make(ctx: &XdpContext) {
    let Some(sources) = SOURCES.get_ptr_mut(0) else { return };
    // SAFETY: a checked pointer into a map's value, which only this thread's runs use.
    let sources = unsafe { &mut *sources };
    if sources.made & 4095 == 0
        && let Some(window) = WINDOWS.get_ptr_mut((sources.made >> 12) as u32)
    {
        // SAFETY: a checked pointer, and a helper without arguments.
        unsafe { *window = bpf_ktime_get_ns() };
    }
    sources.write(ctx);
}

/// Nothing.
#[xdp(frags)]
pub fn empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Nothing, as programs for frames of one buffer do it.
#[xdp]
pub fn empty_plain(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// The least that drops.
#[xdp(frags)]
pub fn drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// Reads the source and counts.
#[xdp(frags)]
pub fn parse(ctx: XdpContext) -> u32 {
    judge(&ctx, |_| None, |_| None)
}

/// Looks the source up in a hash.
#[xdp(frags)]
pub fn hash(ctx: XdpContext) -> u32 {
    judge(&ctx, |source| HASH4.get_ptr_mut(&source), |source| HASH6.get_ptr_mut(&source))
}

/// Looks the source up in a trie.
#[xdp(frags)]
pub fn lpm(ctx: XdpContext) -> u32 {
    judge(
        &ctx,
        |source| LPM4.get(Key::new(32, source)).map(|it| core::ptr::from_ref(it).cast_mut()),
        |source| LPM6.get(Key::new(128, source)).map(|it| core::ptr::from_ref(it).cast_mut()),
    )
}

#[inline(always)]
fn judge(
    ctx: &XdpContext,
    find4: impl FnOnce([u8; 4]) -> Option<*mut u64>,
    find6: impl FnOnce([u8; 16]) -> Option<*mut u64>,
) -> u32 {
    let start = ctx.data();
    let found = match read::<[u8; 2]>(ctx, start + 12) {
        Some([0x08, 0x00]) => read::<[u8; 4]>(ctx, start + 26).and_then(find4),
        Some([0x86, 0xdd]) => read::<[u8; 16]>(ctx, start + 22).and_then(find6),
        _ => None,
    };
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: a checked pointer into this CPU's own value.
        unsafe {
            (*counts)[0] += 1;
            (*counts)[1] += (ctx.data_end() - start) as u64;
        }
    }
    let Some(count) = found else { return XDP_PASS };
    // SAFETY: a checked pointer into a map's value; a benchmark loses no sleep over a lost count.
    unsafe { *count += 1 };
    XDP_DROP
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, start: usize) -> Option<T> {
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, as was just checked.
    Some(unsafe { (start as *const T).read_unaligned() })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
