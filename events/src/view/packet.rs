//! Packets that met an entry of the blocklist.

use super::{names, some};
use kctl_proto::agent::v1::{PacketEvent, Protocol};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// Packets of one source, or of many in a summary.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Packets")]
pub struct PacketView<'a> {
    /// Source address; null in a summary of many sources.
    pub src: Option<&'a str>,
    /// Destination address of the first packet; null in a summary, as what follows.
    pub dst: Option<&'a str>,
    /// Source port of the first packet.
    pub src_port: Option<u32>,
    /// Destination port of the first packet.
    pub dst_port: Option<u32>,
    /// IP protocol of the first packet: "tcp", "udp", "icmp"; the number as text without a name.
    pub protocol: Option<Cow<'static, str>>,
    /// Flags of the first packet's TCP header: "SYN,ACK".
    pub tcp_flags: Option<Cow<'static, str>>,
    /// Where they came in.
    pub interface: Option<&'a str>,
    /// Prefix of the rule.
    pub rule: Option<&'a str>,
    /// Destination port of the rule; null when it names none.
    pub rule_port: Option<u32>,
    /// Last destination port of a rule of a range; null when it names none.
    pub rule_port_last: Option<u32>,
    /// Protocol of the rule; null when it names none.
    pub rule_protocol: Option<&'static str>,
    /// Interface that the rule names; null when it names none.
    pub rule_interface: Option<&'a str>,
    /// Why the prefix is blocked, as its entry says.
    pub reason: Option<&'a str>,
    /// How many packets since the last event of the source and rule.
    pub packets: u64,
    /// Of the frames, from the Ethernet header on.
    pub bytes: Option<u64>,
    /// How many sources there were at least, in a summary.
    pub sources: Option<u64>,
}

impl<'a> From<&'a PacketEvent> for PacketView<'a> {
    fn from(event: &'a PacketEvent) -> Self {
        let rule_protocol = match event.rule_protocol() {
            Protocol::Unspecified => None,
            Protocol::Tcp => Some("tcp"),
            Protocol::Udp => Some("udp"),
        };
        Self {
            src: some(&event.src),
            dst: some(&event.dst),
            src_port: event.src_port,
            dst_port: event.dst_port,
            protocol: event.protocol.map(names::protocol),
            tcp_flags: event.tcp_flags.map(names::tcp_flags),
            interface: some(&event.interface),
            rule: some(&event.rule),
            rule_port: (event.rule_port != 0).then_some(event.rule_port),
            rule_port_last: (event.rule_port_last != 0).then_some(event.rule_port_last),
            rule_protocol,
            rule_interface: some(&event.rule_interface),
            reason: some(&event.reason),
            packets: event.packets,
            bytes: event.bytes,
            sources: (event.sources != 0).then_some(event.sources),
        }
    }
}
