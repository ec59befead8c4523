//! Detection: scans, connection rates and what floods are told from, of TCP packets that pass. It counts
//! and tells; whether a port is flooded, and what follows, user space decides.
//!
//! A packet that is no connection attempt costs one load. Only where a port is suspect are its packets
//! looked at, for whether attempts are followed up.

mod alarm;
mod connections;
mod handshakes;
mod scan;
mod source;
mod table;

use crate::context::Context;
use crate::family::Family;
use crate::maps;
use crate::packet::Packet;
use agent_records::detect::{Alarm, CONNECTIONS, MAX_SCAN_PORTS, TICK_SHIFT};
use agent_records::lookup::Lookup;
use alarm::{alarm, tell};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use connections::detect_service;
use handshakes::{attempt, bit, detect_ack, is_over, suspect};
use source::detect_source;

/// A packet passes.
#[inline(always)]
pub fn passed<F: Family>(ctx: &impl Context, lookup: &Lookup, packet: &Packet<F>) {
    let transport = &packet.transport;
    let ports = u64::from(transport.ports);
    if transport.syn() {
        if lookup.detects != 0 {
            let (high, low) = F::halves(packet.source);
            detect_syn(high, low, ports, ctx.interface());
        }
    } else if lookup.suspects & bit(ports) != 0
        && transport.flags().is_some_and(|flags| flags & NOT_FOLLOWED == ACK)
    {
        let (high, low) = F::halves(packet.source);
        detect_ack(high, low, ports);
    }
}

const ACK: u8 = 0x10;
/// An attempt is followed up with ACK, and without FIN, SYN or RST.
const NOT_FOLLOWED: u8 = ACK | 0x07;

/// Counts a connection attempt.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn detect_syn(high: u64, low: u64, ports: u64, ifindex: u32) -> u64 {
    let Some(settings) = maps::DETECT.get(0) else { return 0 };
    // SAFETY: a helper without arguments. Its clock is some milliseconds late, and cheap.
    let now = (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32;
    let port = ports as u16;
    let mut watched = false;
    if settings.flood_window != 0
        && let Some(found) = maps::DETECT_PORTS.get_ptr_mut(u32::from(port))
    {
        // SAFETY: a checked pointer into a map's value, here and below; other CPUs write there too, and
        // the worst of it is a window that begins a SYN early or late.
        unsafe {
            if is_over(&(*found).handshakes, now, settings.flood_window) {
                (*found).base_sources = (*found).sources;
            }
            watched = attempt(&raw mut (*found).handshakes, now, settings, settings.flood_port);
        }
    }
    if settings.connections_window | settings.flood_window != 0 {
        let count = detect_service(high, low, ports, now);
        if count != 0 {
            let mut alarm = Alarm { count: count as u32, ..alarm(high, low, port, ifindex) };
            alarm.kind = CONNECTIONS;
            tell(&alarm, &[0; MAX_SCAN_PORTS]);
        }
    }
    if settings.scan_window | settings.flood_window != 0 {
        let when = u64::from(ifindex) << 32 | u64::from(now);
        let is_suspect = detect_source(high, low, ports, when, u64::from(watched));
        if is_suspect != 0 {
            suspect(bit(ports));
        }
    }
    0
}

/// 0 says that there was none.
#[inline(always)]
fn moment(now: u32) -> u32 {
    if now == 0 { 1 } else { now }
}
