//! What always passes. Asked only when a rule matched, so other packets don't pay for it.

use crate::family::Family;
use crate::lookup;
use crate::maps;
use crate::packet::{Kind, Packet};
use agent_records::{GuardPort, TCP, UDP, Uplink};

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
    may_have::<F>(ports) && F::guarded(packet.source, ports) != 0
}

/// Whether the guard must be asked: a call costs more than this.
#[inline(always)]
fn may_have<F: Family>(ports: u64) -> bool {
    let Some(guarded) = lookup::guarded() else { return false };
    let (protocol, source_port, port) = ((ports >> 32) as u8, (ports >> 16) as u16, ports as u16);
    // Without branches, which the verifier would follow with all that comes after.
    let prefixes = guarded.prefixes >> F::VERSION;
    let uplinks = guarded.uplinks >> (source_port & 63);
    let ports = guarded.ports >> (port & 63) | u64::from(protocol == UDP);
    (prefixes | uplinks | ports) & 1 != 0
}

/// In what is told of ports: there are some.
const HAS_PORTS: u64 = 1 << 40;

/// 1 when the guard has the source, the service or the uplink, else 0. The protocol and the source port
/// stand above the destination port.
#[inline(always)]
pub fn has<F: Family>(source: F::Address, ports: u64) -> u64 {
    let Some(guarded) = lookup::guarded() else { return 0 };
    if guarded.prefixes >> F::VERSION & 1 != 0 && F::in_prefix(source) {
        return 1;
    }
    if ports & HAS_PORTS == 0 {
        return 0;
    }
    let (protocol, source_port, port) = ((ports >> 32) as u8, (ports >> 16) as u16, ports as u16);
    if protocol == UDP && (source_port, port) == F::DHCP_REPLY {
        return 1;
    }
    let may_have = |bits: u64, port: u16| bits >> (port & 63) & 1 != 0;
    let service = GuardPort { port, protocol, zero: 0 };
    // SAFETY: only whether the key is there is asked.
    if may_have(guarded.ports, port) && unsafe { maps::GUARD_PORTS.get(&service) }.is_some() {
        return 1;
    }
    if protocol != TCP || !may_have(guarded.uplinks, source_port) {
        return 0;
    }
    let uplink = Uplink { address: F::mapped(source), port: source_port };
    // SAFETY: only whether the key is there is asked.
    u64::from(unsafe { maps::UPLINKS.get(&uplink) }.is_some())
}
