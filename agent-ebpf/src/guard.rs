//! What always passes. Asked only when a rule matched, so other packets don't pay for it.

use crate::family::Family;
use crate::lookup;
use crate::maps;
use crate::packet::{Kind, Packet};
use crate::rules;
use agent_records::lookup::{GUARD, Lookup, kind};
use agent_records::{TCP, UDP, Uplink};

/// Whether the packet passes whatever the rules say.
#[inline(always)]
pub fn passes<F: Family>(lookup: &Lookup, packet: &Packet<F>) -> bool {
    let transport = &packet.transport;
    if transport.kind == Kind::Neighbour {
        return true;
    }
    let near = F::guards_around(lookup, packet.source);
    let mut may = near;
    let mut uplink = 0;
    if transport.kind == Kind::Ports {
        let (source_port, port) = (transport.source_port(), transport.port());
        if transport.protocol == UDP && (source_port, port) == F::DHCP_REPLY {
            return true;
        }
        if transport.protocol == TCP && has(lookup.guarded.uplinks, source_port) != 0 {
            uplink = KNOWN | u64::from(source_port);
        }
        may |= uplink | has(lookup.guarded.ports, port);
    }
    // A call costs more than all of this.
    may != 0 && (F::guarded(packet.source, near, uplink) != 0 || has_port(lookup, packet))
}

/// Whether the guard has the destination port. Not asked within [`knows`], because the verifier adds up the
/// stacks of calls within calls.
#[inline(always)]
fn has_port<F: Family>(lookup: &Lookup, packet: &Packet<F>) -> bool {
    let transport = &packet.transport;
    if transport.kind != Kind::Ports || has(lookup.guarded.ports, transport.port()) == 0 {
        return false;
    }
    let service = rules::service(transport.protocol, transport.port()) | GUARD;
    rules::drops(F::others(packet.source, lookup::EVERYWHERE, service, 0))
}

/// 1 when a port may be among those with these last bits; else 0.
#[inline(always)]
fn has(bits: u64, port: u16) -> u64 {
    bits >> (port & 63) & 1
}

/// Above a port: there is one.
const KNOWN: u64 = 1 << 16;

/// 1 when the guard has the source, or an uplink with that source port, if it is [known](KNOWN); else 0.
/// `near` is what of the guard is near the source.
#[inline(always)]
pub fn knows<F: Family>(source: F::Address, near: u64, port: u64) -> u64 {
    if near != 0 && rules::drops(F::search(source, near, GUARD, kind::GUARD)) {
        return 1;
    }
    if port & KNOWN == 0 {
        return 0;
    }
    let uplink = Uplink { address: F::mapped(source), port: port as u16 };
    // SAFETY: only whether the key is there is asked.
    u64::from(unsafe { maps::UPLINKS.get(&uplink) }.is_some())
}
