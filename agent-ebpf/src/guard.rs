//! What always passes. Asked only when a rule matched, so other packets don't pay for it.

use crate::family::Family;
use crate::lookup;
use crate::maps;
use crate::packet::{Kind, Packet, Transport};
use crate::rules;
use agent_records::lookup::{GUARD, kind};
use agent_records::{TCP, UDP, Uplink};

/// Whether the packet passes whatever the rules say.
#[inline(always)]
pub fn passes<F: Family>(packet: &Packet<F>) -> bool {
    let transport = &packet.transport;
    if transport.neighbour {
        return true;
    }
    let (source_port, port) = (u64::from(transport.source_port), u64::from(transport.port));
    let ports = if transport.kind == Kind::Ports {
        HAS_PORTS | u64::from(transport.protocol) << 32 | source_port << 16 | port
    } else {
        0
    };
    may_pass::<F>(packet.source, ports) && F::guarded(packet.source, ports) != 0 || has_port(packet)
}

/// Whether the guard must be asked: a call costs more than this.
#[inline(always)]
fn may_pass<F: Family>(source: F::Address, ports: u64) -> bool {
    let Some(guarded) = lookup::guarded() else { return false };
    let uplink = guarded.uplinks >> ((ports >> 16) & 63) & 1;
    let reply = u64::from((ports >> 32) as u8 == UDP);
    // Without branches, which the verifier would follow with all that comes after.
    F::guards_around(source) | uplink | reply != 0
}

/// Whether the guard has the destination port. Not asked within [`has`], because the verifier adds up the
/// stacks of calls within calls.
#[inline(always)]
fn has_port<F: Family>(packet: &Packet<F>) -> bool {
    let Transport { kind, protocol, port, .. } = packet.transport;
    let Some(guarded) = lookup::guarded() else { return false };
    if kind != Kind::Ports || !may_have(guarded.ports, port) {
        return false;
    }
    let service = rules::service(protocol, port) | GUARD;
    rules::drops(F::others(packet.source, lookup::EVERYWHERE, service, 0))
}

#[inline(always)]
fn may_have(bits: u64, port: u16) -> bool {
    bits >> (port & 63) & 1 != 0
}

/// In what is told of ports: there are some.
const HAS_PORTS: u64 = 1 << 40;

/// 1 when the guard has the source or the uplink, else 0. The protocol and the source port
/// stand above the destination port.
#[inline(always)]
pub fn has<F: Family>(source: F::Address, ports: u64) -> u64 {
    let Some(guarded) = lookup::guarded() else { return 0 };
    let near = F::guards_around(source);
    if near != 0 && rules::drops(F::search(source, near, GUARD, kind::GUARD)) {
        return 1;
    }
    if ports & HAS_PORTS == 0 {
        return 0;
    }
    let (protocol, source_port, port) = ((ports >> 32) as u8, (ports >> 16) as u16, ports as u16);
    if protocol == UDP && (source_port, port) == F::DHCP_REPLY {
        return 1;
    }
    if protocol != TCP || !may_have(guarded.uplinks, source_port) {
        return 0;
    }
    let uplink = Uplink { address: F::mapped(source), port: source_port };
    // SAFETY: only whether the key is there is asked.
    u64::from(unsafe { maps::UPLINKS.get(&uplink) }.is_some())
}
