//! The filter: judges every frame that enters an interface by its source address, at XDP or, where that
//! can't be, at tcx.
//!
//! It owns the verdict and the counters. It knows nothing of hosts, reasons or names: user space
//! lays rules down in maps (agent-records) and reads the counters there.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod context;
mod count;
mod detect;
mod family;
mod guard;
mod lookup;
mod maps;
mod packet;
mod rules;
mod tell;

use agent_records::{MONITOR_SLOT, Tally, verdict};
use aya_ebpf::bindings::{tcx_action_base, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use context::Context;
use family::{Family, V4, V6};
use packet::{Frame, Packet};
use rules::Match;

/// Passes or drops one frame before the stack has it.
#[xdp(frags)]
#[inline(always)]
pub fn kctl_filter(ctx: XdpContext) -> u32 {
    if drops(&ctx, packet::parse(&ctx)) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// The same where the stack takes it in, with an Ethernet header.
#[classifier]
pub fn kctl_tcx(ctx: TcContext) -> i32 {
    context::pull(&ctx);
    verdict_of_tcx(drops(&ctx, packet::parse(&ctx)))
}

/// The same for interfaces whose packets have none.
#[classifier]
pub fn kctl_tcx_ip(ctx: TcContext) -> i32 {
    context::pull(&ctx);
    let packet = packet::parse_network(&ctx, context::ethertype(&ctx), 0);
    verdict_of_tcx(drops(&ctx, packet))
}

/// Whatever passes goes on to the next program on the hook.
#[inline(always)]
fn verdict_of_tcx(drops: bool) -> i32 {
    if drops { tcx_action_base::TCX_DROP } else { tcx_action_base::TCX_NEXT }
}

#[inline(always)]
fn drops(ctx: &impl Context, frame: Frame) -> bool {
    match frame {
        Frame::V4(packet) => judge::<V4>(ctx, &packet),
        Frame::V6(packet) => judge::<V6>(ctx, &packet),
        Frame::Other => pass(ctx.size()),
        Frame::Malformed => {
            let size = ctx.size();
            count::verdict(verdict::MALFORMED, size);
            pass(size)
        }
    }
}

/// Whether the packet is dropped.
#[inline(always)]
fn judge<F: Family>(ctx: &impl Context, packet: &Packet<F>) -> bool {
    let size = ctx.packet_size(packet.end, packet.transport.payload);
    count::protocol(packet.transport.protocol, size);
    let matched = rules::matching::<F>(ctx, packet.source, &packet.transport);
    if !matches!(matched, Match::Nothing) && guard::passes(packet) {
        count::verdict(verdict::GUARDED, size);
    } else if let Match::Single(record) = matched {
        tell::met_single(ctx, packet, record, size);
        count::verdict(verdict::DROPPED, size);
        return true;
    } else if let Match::Drop(rule) = matched {
        tell::met(ctx, packet, rule, 0, size);
        count::hit(rule.slot, size);
        count::verdict(verdict::DROPPED, size);
        return true;
    } else if let Match::Monitor(rule) = matched {
        tell::met(ctx, packet, rule, MONITOR_SLOT, size);
        count::hit(rule.slot, size);
        count::verdict(verdict::MONITORED, size);
    }
    if packet.transport.syn() {
        count::connection(packet.transport.port);
    }
    detect::passed(ctx, packet);
    pass(size)
}

#[inline(always)]
fn pass(size: Tally) -> bool {
    count::verdict(verdict::PASSED, size);
    false
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
