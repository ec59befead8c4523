//! Sends frames to the other end of the pair that they came in by, each with another source. Tests and
//! benchmarks let the kernel run it over live frames, which is faster than any socket.
#![no_std]
#![no_main]

mod sources;

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use sources::Sources;

#[map]
static SOURCES: Array<Sources> = Array::with_max_entries(1, 0);

/// Sends a frame as it is, with the checksum of an IPv4 header made right.
#[xdp]
pub fn send(ctx: XdpContext) -> u32 {
    make(&ctx);
    sum_up_header(&ctx);
    XDP_TX
}

/// The same of a TCP segment over IPv4 without options and data, with its checksum made right too.
#[xdp]
pub fn send_tcp(ctx: XdpContext) -> u32 {
    make(&ctx);
    sum_up_header(&ctx);
    sum_up_segment(&ctx);
    XDP_TX
}

#[inline(always)]
fn make(ctx: &XdpContext) {
    let Some(sources) = SOURCES.get_ptr_mut(0) else { return };
    // SAFETY: a checked pointer into a map's value, which only this thread's runs use.
    unsafe { (*sources).write(ctx) };
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
fn sum_up_segment(ctx: &XdpContext) {
    let start = ctx.data();
    if start + 54 > ctx.data_end() {
        return;
    }
    let mut sum = u32::from(6_u16.to_be()) + u32::from(20_u16.to_be());
    for place in 0..14 {
        // But its own place.
        if place != 12 {
            sum += word(start, 26 + 2 * place);
        }
    }
    put(start, 50, sum);
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
