//! The XDP filter: judges every frame that enters an interface by its source address.
//!
//! It owns the verdict and the counters. It knows nothing of hosts, reasons or names: user space
//! lays rules down in maps (agent-records) and reads the counters there.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod count;
mod family;
mod guard;
mod lookup;
mod maps;
mod packet;
mod rules;
mod tell;

use agent_records::{MONITOR_SLOT, verdict};
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use family::{Family, V4, V6};
use packet::{Frame, Packet};
use rules::Match;

/// Passes or drops one frame.
#[xdp(frags)]
pub fn kctl_filter(ctx: XdpContext) -> u32 {
    match packet::parse(&ctx) {
        Frame::V4(packet) => judge::<V4>(&ctx, &packet),
        Frame::V6(packet) => judge::<V6>(&ctx, &packet),
        Frame::Other => pass(count::frame_bytes(&ctx)),
        Frame::Malformed => {
            let bytes = count::frame_bytes(&ctx);
            count::verdict(verdict::MALFORMED, bytes);
            pass(bytes)
        }
    }
}

#[inline(always)]
fn judge<F: Family>(ctx: &XdpContext, packet: &Packet<F>) -> u32 {
    let bytes = count::packet_bytes(ctx, packet.end);
    count::protocol(packet.transport.protocol, bytes);
    let matched = rules::matching::<F>(ctx, packet.source, &packet.transport);
    if !matches!(matched, Match::Nothing) && guard::passes(packet) {
        count::verdict(verdict::GUARDED, bytes);
    } else if let Match::Drop(rule) = matched {
        tell::met(ctx, packet, rule, 0, bytes);
        count::hit(rule.slot, bytes);
        count::verdict(verdict::DROPPED, bytes);
        return xdp_action::XDP_DROP;
    } else if let Match::Monitor(rule) = matched {
        tell::met(ctx, packet, rule, MONITOR_SLOT, bytes);
        count::hit(rule.slot, bytes);
        count::verdict(verdict::MONITORED, bytes);
    }
    if packet.transport.syn() {
        count::connection(packet.transport.port);
    }
    pass(bytes)
}

#[inline(always)]
fn pass(bytes: u64) -> u32 {
    count::verdict(verdict::PASSED, bytes);
    xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The kernel's licence check knows no Apache-2.0; helpers that are GPL only need a string it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
