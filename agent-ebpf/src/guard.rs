//! What always passes. Asked only when a rule matched, so other packets don't pay for it.

use crate::family::Family;
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
    if F::guarded(packet.source) {
        return true;
    }
    if transport.kind != Kind::Ports {
        return false;
    }
    if transport.protocol == UDP && (transport.source_port, transport.port) == F::DHCP_REPLY {
        return true;
    }
    let service = GuardPort { port: transport.port, protocol: transport.protocol, zero: 0 };
    // SAFETY: only whether the key is there is asked.
    if unsafe { maps::GUARD_PORTS.get(&service) }.is_some() {
        return true;
    }
    let uplink = Uplink { address: F::mapped(packet.source), port: transport.source_port };
    // SAFETY: only whether the key is there is asked.
    transport.protocol == TCP && unsafe { maps::UPLINKS.get(&uplink) }.is_some()
}
