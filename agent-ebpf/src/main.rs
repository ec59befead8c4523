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

use agent_records::lookup::Lookup;
use agent_records::{MONITOR_SLOT, Tally, Totals, verdict};
use aya_ebpf::bindings::{tcx_action_base, xdp_action};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use context::Context;
use family::{Family, V4, V6};
use packet::{Frame, Packet};

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
        Frame::Other => pass_unread(ctx, false),
        Frame::Malformed => pass_unread(ctx, true),
    }
}

/// Whether the packet is dropped.
#[inline(always)]
fn judge<F: Family>(ctx: &impl Context, packet: &Packet<F>) -> bool {
    // Looked up once, and all that a packet that no rule is about needs: a look-up costs more than a load.
    let (Some(totals), Some(lookup)) = (count::own(), lookup::lookup()) else { return false };
    let size = ctx.packet_size(packet.end, packet.transport.payload);
    count::protocol(totals, packet.transport.protocol, size);
    let near = F::around(lookup, packet.source);
    if near != 0 && meets(ctx, totals, lookup, packet, near, size) {
        return true;
    }
    if packet.transport.syn() {
        count::connection(packet.transport.port());
    }
    detect::passed(ctx, lookup, packet);
    count::verdict(totals, verdict::PASSED, size);
    false
}

/// Whether a packet near rules is dropped; counts what it meets.
#[inline(always)]
fn meets<F: Family>(
    ctx: &impl Context,
    totals: *mut Totals,
    lookup: &Lookup,
    packet: &Packet<F>,
    near: u64,
    size: Tally,
) -> bool {
    let home = rules::at_home::<F>(lookup, packet.source, near);
    let found = match home {
        Some(_) => rules::DROP,
        None => rules::matching(ctx, lookup, near, packet),
    };
    if found == 0 {
        return false;
    }
    if guard::passes(lookup, packet) {
        count::verdict(totals, verdict::GUARDED, size);
        return false;
    }
    let epoch = lookup.epoch as u32;
    if let Some(home) = home {
        tell::met_at_home(ctx, epoch, packet, home, size);
        count::verdict(totals, verdict::DROPPED, size);
        return true;
    }
    let (rule, drops) = (rules::counted(found), rules::drops(found));
    let (kind, verdict) =
        if drops { (0, verdict::DROPPED) } else { (MONITOR_SLOT, verdict::MONITORED) };
    tell::met(ctx, epoch, packet, rule, kind, size);
    count::hit(rule.slot, size);
    count::verdict(totals, verdict, size);
    drops
}

#[inline(always)]
fn pass_unread(ctx: &impl Context, malformed: bool) -> bool {
    let size = ctx.size();
    let Some(totals) = count::own() else { return false };
    if malformed {
        count::verdict(totals, verdict::MALFORMED, size);
    }
    count::verdict(totals, verdict::PASSED, size);
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
