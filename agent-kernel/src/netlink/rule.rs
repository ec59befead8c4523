//! Rules: which table a packet's route is looked up in.

use super::{
    attribute::{address, attributes, header, text, u8, u32},
    family::{Answers, Family},
    names::{Words, word},
    route::{PROTOCOLS, prefix},
};
use crate::Error;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::RuleMessage;
use std::{borrow::Cow, io, ops::RangeInclusive};

/// One rule (rtnetlink(7), RTM_NEWRULE). Words are those of ip-rule(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Lower comes first.
    pub priority: u32,
    /// `lookup`, `goto`, `nop`, `blackhole`, `unreachable`, `prohibit`.
    pub action: Cow<'static, str>,
    /// Where `lookup` looks.
    pub table: Option<u32>,
    /// The rule's priority that `goto` leads to.
    pub goto: Option<u32>,
    /// It is about every packet that does not match the rest.
    pub inverted: bool,
    /// Only packets from there.
    pub src: Option<IpNet>,
    /// Only packets to there.
    pub dst: Option<IpNet>,
    /// Only packets that came in there.
    pub iif: Option<String>,
    /// Only packets of sockets bound to it.
    pub oif: Option<String>,
    /// Only packets with this mark, as far as the mask goes.
    pub fwmark: Option<u32>,
    /// Which bits of the mark count.
    pub fwmask: Option<u32>,
    /// Type of service; 0 is any.
    pub tos: u8,
    /// Number of the IP protocol.
    pub ip_protocol: Option<u8>,
    /// Source ports.
    pub sport: Option<RangeInclusive<u16>>,
    /// Destination ports.
    pub dport: Option<RangeInclusive<u16>>,
    /// Users whose sockets send the packet.
    pub uids: Option<RangeInclusive<u32>>,
    /// The table is that of the link's VRF.
    pub l3mdev: bool,
    /// Routes with a prefix of this length or shorter don't count.
    pub suppress_prefix_len: Option<u32>,
    /// Who made it.
    pub protocol: Cow<'static, str>,
}

// Not in libc; linux/fib_rules.h.
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FIB_RULE_INVERT: u32 = 2;
const FR_ACT_TO_TBL: u8 = 1;
/// What FRA_SUPPRESS_PREFIXLEN is where nothing is suppressed.
const NOTHING: u32 = u32::MAX;
const ACTIONS: Words = &[
    (1, "lookup"),
    (2, "goto"),
    (3, "nop"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
];

/// Every rule of one family or of both, read as they are taken.
pub fn rules(
    family: Option<Family>,
) -> Result<impl Iterator<Item = Result<Rule, Error>> + Send, Error> {
    let answers = Answers::dump(family, |family| {
        let mut message = RuleMessage::default();
        message.header.family = family.into();
        RouteNetlinkMessage::GetRule(message)
    })?;
    Ok(answers.objects(|family, payload| read(family, payload).map(Some)))
}

fn read(family: Family, payload: &[u8]) -> io::Result<Rule> {
    // `struct fib_rule_hdr`
    let (head, rest) = header(payload)?;
    let [_family, dst_len, src_len, tos, table, _, _, action, f0, f1, f2, f3]: [u8; 12] = *head;
    let mut rule = Rule {
        family,
        priority: 0,
        action: word(ACTIONS, action.into()),
        table: (action == FR_ACT_TO_TBL).then_some(table.into()),
        goto: None,
        inverted: u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0,
        src: (src_len > 0).then(|| prefix(family.unspecified(), src_len)).transpose()?,
        dst: (dst_len > 0).then(|| prefix(family.unspecified(), dst_len)).transpose()?,
        iif: None,
        oif: None,
        fwmark: None,
        fwmask: None,
        tos,
        ip_protocol: None,
        sport: None,
        dport: None,
        uids: None,
        l3mdev: false,
        suppress_prefix_len: None,
        protocol: word(PROTOCOLS, 0),
    };
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        match kind {
            FRA_DST => rule.dst = Some(prefix(address(value)?, dst_len)?),
            FRA_SRC => rule.src = Some(prefix(address(value)?, src_len)?),
            FRA_IIFNAME => rule.iif = Some(text(value)),
            FRA_OIFNAME => rule.oif = Some(text(value)),
            FRA_GOTO => rule.goto = Some(u32(value)?),
            FRA_PRIORITY => rule.priority = u32(value)?,
            FRA_FWMARK => rule.fwmark = Some(u32(value)?),
            FRA_FWMASK => rule.fwmask = Some(u32(value)?),
            FRA_TABLE => rule.table = rule.table.and(Some(u32(value)?)),
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_prefix_len = Some(u32(value)?).filter(|it| *it != NOTHING);
            }
            FRA_L3MDEV => rule.l3mdev = u8(value)? != 0,
            FRA_UID_RANGE => {
                let (_, last) = header::<4>(value)?;
                rule.uids = Some(u32(value)?..=u32(last)?);
            }
            FRA_PROTOCOL => rule.protocol = word(PROTOCOLS, u8(value)?.into()),
            FRA_IP_PROTO => rule.ip_protocol = Some(u8(value)?),
            FRA_SPORT_RANGE => rule.sport = Some(ports(value)?),
            FRA_DPORT_RANGE => rule.dport = Some(ports(value)?),
            _ => {}
        }
    }
    Ok(rule)
}

/// `struct fib_rule_port_range`
fn ports(value: &[u8]) -> io::Result<RangeInclusive<u16>> {
    let ([s0, s1, e0, e1], _) = header(value)?;
    Ok(u16::from_ne_bytes([*s0, *s1])..=u16::from_ne_bytes([*e0, *e1]))
}
