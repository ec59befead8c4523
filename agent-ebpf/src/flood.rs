//! Sends frames to the other end of the pair that they came in by. Tests and benchmarks let the kernel run it
//! over live frames, which is faster than any socket.
#![no_std]
#![no_main]

mod sources;

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use sources::Sources;

/// Bytes of a frame that takes turns with others.
const FRAME: usize = 80;
/// Where the segment is, and the addresses that its checksum is over: begin and bytes.
const TCP4: usize = 34;
const TCP6: usize = 54;
const ADDRESSES4: [usize; 2] = [26, 8];
const ADDRESSES6: [usize; 2] = [22, 32];

#[map]
static SOURCES: Array<Sources> = Array::with_max_entries(1, 0);
/// Frames that take turns.
#[map]
static FRAMES: Array<[u64; FRAME / 8]> = Array::with_max_entries(4, 0);
/// How many, a power of two.
#[map]
static TURNS: Array<u64> = Array::with_max_entries(1, 0);

/// Sends a frame with another source, and the checksum of an IPv4 header made right.
#[xdp]
pub fn send(ctx: XdpContext) -> u32 {
    make(&ctx);
    if is_ipv4(&ctx) {
        sum_up_header(&ctx);
    }
    XDP_TX
}

/// The same of frames that take turns, TCP segments without options and data, with their checksums made right
/// too.
#[xdp]
pub fn send_tcp(ctx: XdpContext) -> u32 {
    take_turn(&ctx);
    make(&ctx);
    if is_ipv4(&ctx) {
        sum_up_header(&ctx);
        sum_up_segment::<TCP4>(&ctx, ADDRESSES4);
    } else {
        sum_up_segment::<TCP6>(&ctx, ADDRESSES6);
    }
    XDP_TX
}

/// Sends frames that take turns as they are.
#[xdp]
pub fn send_own(ctx: XdpContext) -> u32 {
    take_turn(&ctx);
    if let Some(sources) = SOURCES.get_ptr_mut(0) {
        // SAFETY: a checked pointer into a map's value, which only this thread's runs use.
        unsafe { (*sources).made += 1 };
    }
    XDP_TX
}

/// Puts the next frame in the place of what the last run left.
#[inline(always)]
fn take_turn(ctx: &XdpContext) {
    let (Some(sources), Some(turns)) = (SOURCES.get(0), TURNS.get(0)) else { return };
    let Some(frame) = FRAMES.get((sources.made & (*turns - 1)) as u32) else { return };
    let start = ctx.data();
    if start + FRAME > ctx.data_end() {
        return;
    }
    for (place, word) in frame.iter().enumerate() {
        // SAFETY: within the frame, as was just checked.
        unsafe { ((start + 8 * place) as *mut u64).write_unaligned(*word) };
    }
}

#[inline(always)]
fn make(ctx: &XdpContext) {
    let Some(sources) = SOURCES.get_ptr_mut(0) else { return };
    // SAFETY: a checked pointer into a map's value, which only this thread's runs use.
    unsafe { (*sources).write(ctx) };
}

#[inline(always)]
fn is_ipv4(ctx: &XdpContext) -> bool {
    let start = ctx.data();
    start + 14 <= ctx.data_end() && word(start, 12) == u32::from(0x0800_u16.to_be())
}

/// The stack looks at it (RFC 1071).
#[inline(always)]
fn sum_up_header(ctx: &XdpContext) {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return;
    }
    let sum = word(start, 14) + word(start, 16) + word(start, 18) + word(start, 20);
    let sum = sum + word(start, 22) + word(start, 26) + word(start, 28);
    let sum = sum + word(start, 30) + word(start, 32);
    put(start, 24, sum);
}

/// Over the addresses, the protocol, the length, and 20 bytes (RFC 9293, section 3.1).
#[inline(always)]
fn sum_up_segment<const TCP: usize>(ctx: &XdpContext, [addresses, bytes]: [usize; 2]) {
    let start = ctx.data();
    if start + TCP + 20 > ctx.data_end() {
        return;
    }
    let mut sum = u32::from(6_u16.to_be()) + u32::from(20_u16.to_be());
    for place in 0..bytes / 2 {
        sum += word(start, addresses + 2 * place);
    }
    for place in 0..10 {
        // But its own place.
        if place != 8 {
            sum += word(start, TCP + 2 * place);
        }
    }
    put(start, TCP + 16, sum);
}

#[inline(always)]
fn word(start: usize, place: usize) -> u32 {
    // SAFETY: within the frame, as the caller has checked.
    u32::from(unsafe { ((start + place) as *const u16).read_unaligned() })
}

#[inline(always)]
fn put(start: usize, place: usize, sum: u32) {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // SAFETY: as above.
    unsafe { ((start + place) as *mut u16).write_unaligned(!(sum as u16)) };
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
