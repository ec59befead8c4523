//! Neighbours: which link-layer address an address of the same link has.

use super::{
    attribute::{address, attributes, header, link_address},
    family::{Answers, Family},
    names::{Links, Words, bits, word},
};
use crate::Error;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use nix::libc;
use std::{borrow::Cow, io, net::IpAddr};

/// Which neighbours.
#[derive(Debug, Clone, Default)]
pub struct NeighbourFilter {
    /// Only of this family.
    pub family: Option<Family>,
    /// Only of this interface.
    pub interface: Option<String>,
    /// Also those that need no resolving (NOARP: multicast groups, mostly) and those without a state.
    pub all: bool,
}

/// One neighbour (rtnetlink(7), RTM_NEWNEIGH). Words are those of ip-neighbour(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its family.
    pub family: Family,
    /// Name of the interface that leads to it.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address, where that is known.
    pub mac: Option<String>,
    /// `REACHABLE`, `STALE`.
    pub state: Cow<'static, str>,
    /// `router`, `extern_learn`.
    pub flags: Vec<&'static str>,
}

const NONE: u16 = 0x00;
const NOARP: u16 = 0x40;
const EXT_LEARNED: u8 = 0x10;
const STATES: Words = &[
    (0x00, "NONE"),
    (0x01, "INCOMPLETE"),
    (0x02, "REACHABLE"),
    (0x04, "STALE"),
    (0x08, "DELAY"),
    (0x10, "PROBE"),
    (0x20, "FAILED"),
    (0x40, "NOARP"),
    (0x80, "PERMANENT"),
];
const FLAGS: Words = &[
    (0x01, "use"),
    (0x02, "self"),
    (0x04, "master"),
    (0x08, "proxy"),
    (0x10, "extern_learn"),
    (0x20, "offload"),
    (0x40, "sticky"),
    (0x80, "router"),
];

/// Every neighbour that the filter leaves, read as they are taken; not those that the host only
/// answers for (proxies). NotFound: no such interface.
pub fn neighbours(
    filter: NeighbourFilter,
) -> Result<impl Iterator<Item = Result<Neighbour, Error>> + Send, Error> {
    let links = Links::read()?;
    let index = filter.interface.map(|name| links.index(&name)).transpose()?;
    let answers = Answers::dump(filter.family, |family| dump_request(family, index))?;
    let all = filter.all;
    Ok(answers.objects(move |family, payload| read(family, payload, (index, all), &links)))
}

pub(super) fn dump_request(family: Family, index: Option<u32>) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family.into();
    message.attributes.extend(index.map(NeighbourAttribute::IfIndex));
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Whether it is one that ip(8) shows only when it is asked for all.
pub(super) fn is_quiet(payload: &[u8]) -> io::Result<bool> {
    let ([_, _, _, _, _, _, _, _, s0, s1, flags, _type], _) = header(payload)?;
    let state = u16::from_ne_bytes([*s0, *s1]);
    // Somebody put the learned ones there.
    Ok(matches!(state, NONE | NOARP) && flags & EXT_LEARNED == 0)
}

pub(super) fn read(
    family: Family,
    payload: &[u8],
    (only, all): (Option<u32>, bool),
    links: &Links,
) -> io::Result<Option<Neighbour>> {
    // `struct ndmsg`
    let (head, rest) = header(payload)?;
    let [_family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _type]: [u8; 12] = *head;
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let state = u16::from_ne_bytes([s0, s1]);
    if only.is_some_and(|only| only != index) || (!all && is_quiet(payload)?) {
        return Ok(None);
    }
    let mut neighbour = Neighbour {
        family,
        interface: links.name(index),
        address: family.unspecified(),
        mac: None,
        state: word(STATES, state.into()),
        flags: bits(FLAGS, flags.into()),
    };
    for attribute in attributes(rest) {
        match attribute? {
            (libc::NDA_DST, value) => neighbour.address = address(value)?,
            (libc::NDA_LLADDR, value) => neighbour.mac = Some(link_address(value)),
            _ => {}
        }
    }
    Ok(Some(neighbour))
}
