//! What is told of packets that met a rule. Plain data, without the kernel.

use crate::filter::record::{self, Owner};
use crate::filter::{Action, RuleKey};
use agent_records::{Sighting, Tally, has};
use nix::net::if_::if_indextoname;
use std::collections::HashMap;
use std::net::IpAddr;

/// Packets that met one action of one rule: the first one of a source, with what it was like, or a sum
/// of later ones. All that is told of an action adds up to its counter, and nothing is told twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// What became of them.
    pub action: Action,
    /// The rule that they count on; it may be gone.
    pub rule: RuleKey,
    /// Where they came from; absent when that were too many sources to tell one by one, or is not known.
    pub src: Option<IpAddr>,
    /// From how many sources at least, where `src` is absent; 0 when that is not known.
    pub sources: u64,
    /// What follows is told of a first packet only. Where it went.
    pub dst: Option<IpAddr>,
    /// Source port of TCP or UDP.
    pub src_port: Option<u16>,
    /// Destination port of TCP or UDP.
    pub dst_port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The flags byte of the TCP header.
    pub tcp_flags: Option<u8>,
    /// Where it came in; absent also when that is gone.
    pub interface: Option<String>,
    /// How many packets, at least one.
    pub packets: u64,
    /// Bytes of their frames, from the Ethernet header on.
    pub bytes: u64,
    /// When it came, or until when they were counted, nanoseconds of CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

impl Telling {
    /// A first packet.
    pub(super) fn first(owner: Owner, sighting: &Sighting, names: &mut Names) -> Self {
        let is_v4 = owner.key.prefix.network().is_ipv4();
        let had = |bit: u8| sighting.has & bit != 0;
        Self {
            action: owner.action,
            rule: owner.key,
            src: record::address(sighting.source, is_v4),
            sources: 0,
            dst: record::address(sighting.destination, is_v4),
            src_port: had(has::PORTS).then_some(sighting.source_port),
            dst_port: had(has::PORTS).then_some(sighting.port),
            protocol: had(has::PROTOCOL).then_some(sighting.protocol),
            tcp_flags: had(has::FLAGS).then_some(sighting.tcp_flags),
            interface: names.name(sighting.ifindex),
            packets: 1,
            bytes: sighting.bytes,
            boot_ns: sighting.boot_ns,
        }
    }

    /// A sum.
    pub(super) fn sum(owner: Owner, src: Option<IpAddr>, sum: Tally, boot_ns: u64) -> Self {
        Self {
            action: owner.action,
            rule: owner.key,
            src,
            sources: 0,
            dst: None,
            src_port: None,
            dst_port: None,
            protocol: None,
            tcp_flags: None,
            interface: None,
            packets: sum.packets,
            bytes: sum.bytes,
            boot_ns,
        }
    }
}

/// Names of interfaces. It lives for one look at the ring, because a name may go to another one.
#[derive(Debug, Default)]
pub(in crate::filter) struct Names(HashMap<u32, Option<String>>);

impl Names {
    pub(in crate::filter) fn name(&mut self, ifindex: u32) -> Option<String> {
        let ask = || if_indextoname(ifindex).ok()?.into_string().ok();
        self.0.entry(ifindex).or_insert_with(ask).clone()
    }
}
